"""The deployable unit: a folder whose every byte is addressed by one id, the sha256 of its manifest.

    manifest.json     what it is and where it comes from, and the size and sha256 of every other file
    prompts.json      the fast weights of each domain       evaluation.json   what was measured on held-out problems
    reference.json    how its answers to validation problems look, which live traffic is compared with
    adapter/          the slow weights, for PEFT and vLLM   (none when the weights are those of the base)
    gate.json         the decision of a release             manifest.sig      a signature of the manifest

Only JSON and safetensors: nothing in a bundle can run code when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fst.errors import ConfigError, DataError, IntegrityError
from fst.files import document, replacing
from fst.store.files import file_sha256, is_inner_path

SCHEMA = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
REQUIRED = {"prompts.json", "evaluation.json"}

_SUFFIXES = (".json", ".safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified when it was read."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """sha256 of the manifest's bytes, as 64 hex digits; it addresses every byte of the folder."""
        return hashlib.sha256(document(self.manifest).encode()).hexdigest()

    def prompts(self) -> dict[str, Any]:
        """{domain: {"prompts": [...], "ancestry": [...]}}, the best prompt first."""
        return dict(self.document("prompts.json"))

    def evaluation(self) -> dict[str, Any]:
        """{domain: what was measured}."""
        return dict(self.document("evaluation.json"))

    def reference(self) -> dict[str, Any]:
        """{domain: {"rows": [{"question", "response", "reward", "tokens"}, ...]}}; empty in a bundle without any."""
        return dict(self.document("reference.json")) if "reference.json" in self.manifest["files"] else {}

    def gate(self) -> dict[str, Any] | None:
        """The decision that released it, None in a candidate."""
        return dict(self.document("gate.json")) if "gate.json" in self.manifest["files"] else None

    @property
    def adapter(self) -> Path | None:
        """Folder of the adapter, None when the weights are those of the base."""
        return self.folder / "adapter" if ADAPTER[0] in self.manifest["files"] else None

    def document(self, path: str) -> Any:
        """One of its JSON files, checked again. Raises IntegrityError."""
        content = (self.folder / path).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][path]["sha256"]:
            raise IntegrityError(f"{self.folder / path} was changed since the bundle was read; fetch the bundle again")
        return json.loads(content)


def write_bundle(
    folder: Path, manifest: Mapping[str, Any], documents: Mapping[str, Any], adapter: Path | None
) -> Bundle:
    """Write a bundle in place of `folder`; equal inputs give equal bytes and an equal id.

    `documents` are the JSON files by name, `adapter` a folder with the two files of an adapter. `manifest` lacks
    only `files`. Raises DataError for values that JSON cannot hold and for an adapter that lacks a file, ConfigError
    when `folder` holds something else than a bundle.
    """
    require_room(folder)
    with replacing(folder) as partial:
        for name, values in documents.items():
            (partial / name).write_bytes(_canonical(name, values))
        if adapter is not None:
            _copy_adapter(adapter, partial)
        files = {
            file.relative_to(partial).as_posix(): {"sha256": file_sha256(file), "bytes": file.stat().st_size}
            for file in _files(partial, folder)
        }
        (partial / MANIFEST).write_bytes(_canonical(MANIFEST, {**manifest, "files": files}))
        return read_bundle(partial, folder)


def read_bundle(folder: Path, place: Path | None = None) -> Bundle:
    """Verify a bundle, every byte of it; `place` is where it is about to go, if that is elsewhere.

    Raises IntegrityError naming the file that is not what it should be.
    """
    place = place or folder
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder, place)}
    if MANIFEST not in found:
        raise IntegrityError(f"{place} is no bundle: it has no {MANIFEST}")
    manifest = parse_manifest(found[MANIFEST].read_bytes(), str(place))
    for path in sorted(found.keys() - manifest["files"].keys() - {MANIFEST, SIGNATURE}):
        raise IntegrityError(f"{place / path}: not in the manifest; a bundle holds nothing else")
    for path, facts in manifest["files"].items():
        if path not in found:
            raise IntegrityError(f"{place / path} is missing; fetch or build the bundle again")
        check_file(found[path], facts, str(place / path))
    return Bundle(place, manifest)


def parse_manifest(raw: bytes, where: str) -> dict[str, Any]:
    """A manifest's content, checked: canonical form, a known schema, safe paths. Raises IntegrityError.

    `where` names the bundle in messages. What it lists is not looked at, so this may be asked before anything else
    of an untrusted bundle is touched.
    """
    try:
        manifest = json.loads(raw)
        canonical = document(manifest).encode() == raw
    except (ValueError, RecursionError) as exc:
        raise IntegrityError(f"{where}: {MANIFEST} is not readable as JSON; fetch or build the bundle again") from exc
    if not canonical or not isinstance(manifest, dict):
        raise IntegrityError(f"{where}: {MANIFEST} is not as this program writes it; fetch or build the bundle again")
    if manifest.get("schema") != SCHEMA:
        raise IntegrityError(
            f"{where}: {MANIFEST} has schema {manifest.get('schema')!r}, this program reads {SCHEMA}; update it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not files.keys() >= REQUIRED or len(files.keys() & set(ADAPTER)) == 1:
        raise IntegrityError(f"{where}: {MANIFEST} does not list the files that a bundle is made of")
    for path, facts in files.items():
        _check_path(path, where)
        sized = isinstance(facts, dict) and isinstance(facts.get("bytes"), int)
        if not sized or not _SHA256.fullmatch(str(facts.get("sha256"))):
            raise IntegrityError(f"{where}: {MANIFEST} gives no size and sha256 of {path}")
    return manifest


def check_file(file: Path, facts: Mapping[str, Any], name: str) -> None:
    """Raise IntegrityError unless a file is what the manifest says of it; `name` is what the message calls it."""
    size = file.stat().st_size
    if size != facts["bytes"]:
        raise IntegrityError(f"{name} has {size} bytes instead of {facts['bytes']}: it is cut off or was changed")
    if file_sha256(file) != facts["sha256"]:
        raise IntegrityError(f"{name} does not match its sha256: it was changed")
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as exc:
            raise IntegrityError(f"{name} is no safetensors file ({exc})") from exc


def require_room(folder: Path) -> None:
    """Raise ConfigError when a folder holds something that a bundle may not take the place of."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} is no folder; name another place for the bundle")
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} holds something that is no bundle; name another place, or remove it first")


def _canonical(name: str, values: Any) -> bytes:
    try:
        return document(values).encode()
    except ValueError as exc:
        raise DataError(f"{name} cannot be written: {exc}; a figure is NaN or infinite, or a text is broken") from exc


def _copy_adapter(adapter: Path, into: Path) -> None:
    for path in ADAPTER:
        target = into / path
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(adapter / target.name, target)
        except FileNotFoundError as exc:
            raise DataError(f"{adapter} has no {target.name}; name a folder with a whole adapter") from exc


def _files(folder: Path, place: Path) -> Iterator[Path]:
    """Everything below a folder. Raises IntegrityError for what may not be in a bundle."""
    for parent, folders, names in os.walk(folder):
        for file in (Path(parent, name) for name in [*folders, *names]):
            path = file.relative_to(folder).as_posix()
            if file.is_symlink() or not (file.is_file() or file.is_dir()):
                raise IntegrityError(f"{place / path}: a bundle holds plain files only, no links and no devices")
            if file.is_file():
                if path not in (MANIFEST, SIGNATURE):
                    _check_path(path, str(place))
                yield file


def _check_path(path: str, where: str) -> None:
    if not path.endswith(_SUFFIXES):
        raise IntegrityError(f"{where}: {path} may not be in a bundle: only .json and .safetensors, which run no code")
    if not is_inner_path(path) or path in (MANIFEST, SIGNATURE):
        raise IntegrityError(f"{where}: {path!r} is no place for a file of a bundle")
