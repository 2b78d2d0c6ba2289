"""Bundles, the deployable unit: a folder addressed, down to the last byte, by the SHA-256 of its manifest.

    manifest.json     its origin, and the size and SHA-256 of every other file
    prompts.json      the fast weights of each domain
    evaluation.json   measurements on held-out problems
    reference.json    its answers to validation problems, which live traffic is compared with
    adapter/          the slow weights, for PEFT and vLLM; absent when the weights are those of the base
    gate.json         the gate's decision; absent in a candidate
    manifest.sig      a signature of the manifest; optional

It holds JSON and safetensors only, so loading it cannot run code.
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
from fst.files import document, file_sha256, is_inner_path, replacing

SCHEMA = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
REQUIRED = {"prompts.json", "evaluation.json"}

_SUFFIXES = (".json", ".safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified when it was read or written."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """SHA-256 of the manifest's bytes, as 64 hex digits."""
        return manifest_id(self.manifest)

    def prompts(self) -> dict[str, Any]:
        """{domain: {"prompts": [...], "ancestry": [...]}}, best prompt first."""
        return dict(self.document("prompts.json"))

    def evaluation(self) -> dict[str, Any]:
        """{domain: its measurements}."""
        return dict(self.document("evaluation.json"))

    def reference(self) -> dict[str, Any]:
        """{domain: {"rows": [{"question", "response", "reward", "tokens"}, ...]}}; {} without any."""
        return dict(self.document("reference.json")) if "reference.json" in self.manifest["files"] else {}

    def gate(self) -> dict[str, Any] | None:
        """The decision that released it; None in a candidate."""
        return dict(self.document("gate.json")) if "gate.json" in self.manifest["files"] else None

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder; None when the weights are those of the base."""
        return self.folder / "adapter" if ADAPTER[0] in self.manifest["files"] else None

    def document(self, path: str) -> Any:
        """Read one of its JSON files, verifying it again. Raises IntegrityError when it has changed."""
        content = (self.folder / path).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][path]["sha256"]:
            raise IntegrityError(f"{self.folder / path} was changed since the bundle was read; fetch the bundle again")
        return json.loads(content)


def write_bundle(
    folder: Path, manifest: Mapping[str, Any], documents: Mapping[str, Any], adapter: Path | None
) -> Bundle:
    """Write a bundle in place of `folder`. Equal inputs give equal bytes, and so an equal id.

    `manifest` is complete but for `files`, `documents` are the JSON files by name, `adapter` is a folder with the two
    files of an adapter. Raises DataError for values that JSON cannot hold and for an incomplete adapter, ConfigError
    when `folder` holds anything but a bundle.
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
    """Read a bundle and verify every byte; `place` is the folder it will be moved to and is named in messages.

    Raises IntegrityError naming the first file that is wrong.
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


def manifest_id(manifest: Mapping[str, Any]) -> str:
    """Id of the bundle with this manifest."""
    return hashlib.sha256(document(manifest).encode()).hexdigest()


def parse_manifest(raw: bytes, where: str) -> dict[str, Any]:
    """Parse a manifest and check its canonical form, schema and paths. Raises IntegrityError.

    `where` names the bundle in messages. No other file is opened, so this is safe as the first step on an untrusted
    bundle.
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
    """Check a file against its size and SHA-256 in the manifest; `name` is the file in messages. Raises
    IntegrityError."""
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
    """Raise ConfigError unless a folder is absent, empty or a bundle, so that a bundle may replace it."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} is no folder; name another place for the bundle")
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder} holds something that is no bundle; name another place, or remove it first")


def _canonical(name: str, values: Any) -> bytes:
    try:
        return document(values).encode()
    except ValueError as exc:
        raise DataError(
            f"{name} cannot be written: {exc}; a number is NaN or infinite, or a text is not valid Unicode"
        ) from exc


def _copy_adapter(adapter: Path, into: Path) -> None:
    for path in ADAPTER:
        target = into / path
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(adapter / target.name, target)
        except FileNotFoundError as exc:
            raise DataError(f"{adapter} has no {target.name}; name a folder with a whole adapter") from exc


def _files(folder: Path, place: Path) -> Iterator[Path]:
    """All files below a folder. Raises IntegrityError for what may not be in a bundle."""
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
