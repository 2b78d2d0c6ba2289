"""Reading what earlier stages wrote. Each reader names the stage to run where nothing is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fst.data.prepared import load_prepared
from fst.data.types import Domain
from fst.errors import ConfigError, DataError, RecordError
from fst.runs.origin import data_sha256
from fst.stages.places import BASE
from fst.stages.workspace import Workspace
from fst.store.bundle import Bundle, read_bundle


def read_document(path: Path, made_by: str) -> Any:
    """A JSON document that a stage wrote. Raises RecordError, naming the command `made_by`, for a file that is missing
    or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise RecordError(f"{path} cannot be read ({exc}); make it with `{made_by}`") from exc


def problems(workspace: Workspace, name: str, sha256: str | None = None) -> Domain:
    """A domain's prepared problems; with a hash, those that have it, which may lie beside newer ones. Raises DataError
    where there are none."""
    folder = workspace.places.prepared(name, sha256)
    if not folder.exists():
        folder = workspace.places.prepared(name)
    domain = load_prepared(folder)
    if sha256 is not None and data_sha256(domain) != sha256:
        raise DataError(
            f"{folder} has other problems than those that {name!r} was measured on; take the bundle's commit, or run "
            f"`dvc repro` so that all stages see the same data"
        )
    return domain


def adapter(workspace: Workspace, name: str) -> Path | None:
    """The folder of the adapter that a domain's training left; None where it serves the base's own weights."""
    folder = workspace.places.trained(name) / "adapter"
    return folder if folder.exists() else None


def candidate(workspace: Workspace, name: str) -> Bundle:
    """The bundle of a domain, or of `base`. Raises ConfigError when it has not been made yet."""
    folder = workspace.bundled(name)
    if not (folder / "manifest.json").exists():
        command = "fst stage base" if name == BASE else f"dvc repro bundle@{name}"
        raise ConfigError(f"{folder} is not there yet; make it with `{command}`")
    return read_bundle(folder)


def start(workspace: Workspace, name: str) -> Bundle:
    """The bundle that a domain builds on. Raises ConfigError when it has not been made yet."""
    return candidate(workspace, workspace.params.domain(name).start)
