"""Writing a bundle: what the stages `base` and `bundle` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst.config import Params
from fst.runs.origin import base_sha256, versions
from fst.store.bundle import write_bundle


@dataclass(frozen=True)
class Contents:
    """What differs from bundle to bundle: `facts` (domains, run, metrics) for the manifest, JSON documents by their
    file names, the adapter's folder, and the id of the bundle that this one builds on."""

    facts: dict[str, Any]
    documents: dict[str, Any]
    adapter: Path | None = None
    start: str | None = None


def pack(params: Params, folder: Path, contents: Contents) -> Path:
    """Write a candidate bundle into `folder`, in one step, and return the folder. What a release adds is still None."""
    base = params.model.base
    manifest = {
        "schema": 1,
        "base": {"name": base, "sha256": base_sha256(base)},
        "start": contents.start,
        "params": {**params.of_run(), "bundle": {"prompts": params.bundle.prompts}},
        "versions": versions(),
        "candidate": None,
        "gate": None,
        "provenance": None,
        **contents.facts,
    }
    write_bundle(folder, manifest, contents.documents, contents.adapter)
    return folder
