"""The bundles of a store: publishing, finding and fetching them.

Nothing that a store answers is trusted: an id addresses every byte of its bundle, and the bytes are hashed here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fst.errors import ConfigError, IntegrityError, StoreError
from fst.files import document, replacing
from fst.store.bundle import MANIFEST, SIGNATURE, Bundle, check_file, parse_manifest, read_bundle, require_room
from fst.store.layout import bundle_key, is_being_removed, is_manifest, stored_bundles
from fst.store.objects import Missing, Objects, twice
from fst.store.signing import sign, verify


class Published(NamedTuple):
    """A bundle that is whole in the store, and when its manifest was stored (UTC)."""

    id: str
    at: datetime


class Shelf:
    """The bundles of a store. `public_key` is a PEM file; with it, only bundles signed by its private key are published
    or used. Every method raises StoreError when the store cannot be reached or refuses, IntegrityError when it answers
    other bytes than were stored."""

    def __init__(self, objects: Objects, public_key: Path | None = None) -> None:
        self._objects = objects
        self._public_key = public_key

    def publish(self, folder: Path) -> str:
        """Store a bundle and return its id. Publishing it again changes nothing and completes an interrupted attempt.

        The bundle is signed when FST_SIGNING_KEY names a key. Raises IntegrityError for a damaged bundle, in the folder
        or in the store.
        """
        bundle = read_bundle(folder)
        manifest = document(bundle.manifest).encode()
        signature = sign(manifest) or _signature_in(folder)
        self._verify(bundle.id, manifest, signature)
        for _ in range(2):  # again if it was removed as unused at the same moment
            for path in bundle.manifest["files"]:
                self._create(bundle, path)
            if signature:
                self._store_signature(bundle.id, signature)
            self._create(bundle, MANIFEST)
            if self._whole(bundle.id):
                return bundle.id
        raise StoreError(f"{label(bundle.id)} is being removed while it is published; publish it again")

    def fetch(self, bundle_id: str, into: Path) -> Bundle:
        """Copy a bundle to a folder and verify it; if the folder holds it already, only verify it.

        Raises IntegrityError, naming the file, for what does not match its SHA-256 or signature; ConfigError for an id
        that is not in the store and for a folder with other content. A failed fetch leaves nothing behind.
        """
        with contextlib.suppress(IntegrityError):
            held = read_bundle(into)
            if held.id == bundle_id:
                self._verify(bundle_id, document(held.manifest).encode(), _signature_in(into))
                return held
        require_room(into)
        manifest = self.manifest(bundle_id)
        raw = document(manifest).encode()
        signature = self._signature(bundle_id, raw)
        with replacing(into) as partial:
            for path, facts in manifest["files"].items():
                self._download(bundle_id, path, facts, partial)
            if signature is not None:
                (partial / SIGNATURE).write_bytes(signature)
            (partial / MANIFEST).write_bytes(raw)
        return Bundle(into, manifest)

    def manifest(self, bundle_id: str) -> dict[str, Any]:
        """A bundle's manifest, without fetching its other files. Raises ConfigError for an id that is not stored."""
        try:
            return parse_manifest(self._manifest(bundle_id), label(bundle_id))
        except Missing as exc:
            raise ConfigError(f"{label(bundle_id)} is not in the store; publish it, or name another") from exc

    def bundles(self, prefix: str = "") -> list[Published]:
        """Bundles that are whole in the store and whose ids start with `prefix`, oldest first."""
        found = [
            Published(bundle_id, manifest.modified)
            for bundle_id, stored in stored_bundles(self._objects, prefix).items()
            if not is_being_removed(stored)
            for manifest in filter(is_manifest, stored)
        ]
        return sorted(found, key=lambda published: published.at)

    def _require_servable(self, bundle_id: str) -> None:
        """Raise StoreError for a bundle that is not whole in the store, IntegrityError for one without the signature
        that it must have."""
        manifest = self._whole(bundle_id)
        if manifest is None:
            raise StoreError(f"{label(bundle_id)} is not in the store, or only in part; publish it first")
        self._signature(bundle_id, manifest)

    def _whole(self, bundle_id: str) -> bytes | None:
        """The manifest's bytes, if the store holds it and all that it lists in the right sizes, and is not removing
        them; None otherwise."""
        try:
            manifest = self._manifest(bundle_id)
        except Missing:
            return None
        stored = self._objects.list(bundle_key(bundle_id))
        sizes = {one.key: one.bytes for one in stored}
        files = parse_manifest(manifest, label(bundle_id))["files"]
        whole = all(sizes.get(bundle_key(bundle_id, path)) == facts["bytes"] for path, facts in files.items())
        return manifest if whole and not is_being_removed(stored) else None

    def _create(self, bundle: Bundle, path: str) -> None:
        twice(lambda: self._objects.create(bundle_key(bundle.id, path), bundle.folder / path))

    def _store_signature(self, bundle_id: str, signature: bytes) -> None:
        """Store a signature beside the manifest, in place of one by an earlier key."""
        key = bundle_key(bundle_id, SIGNATURE)
        try:
            stored, tag = self._objects.read(key)
        except Missing:
            self._objects.replace(key, signature, None)
        else:
            if stored != signature:
                self._objects.replace(key, signature, tag)

    def _verify(self, bundle_id: str, manifest: bytes, signature: bytes | None) -> None:
        if self._public_key:
            verify(manifest, signature, self._public_key, label(bundle_id))

    def _signature(self, bundle_id: str, manifest: bytes) -> bytes | None:
        """The stored signature, verified; None when there is none and none is required."""

        def attempt() -> bytes | None:
            try:
                signature, _ = self._objects.read(bundle_key(bundle_id, SIGNATURE))
            except Missing:
                signature = None
            self._verify(bundle_id, manifest, signature)
            return signature

        return twice(attempt)

    def _manifest(self, bundle_id: str) -> bytes:
        """Raises Missing."""

        def attempt() -> bytes:
            content, _ = self._objects.read(bundle_key(bundle_id, MANIFEST))
            if hashlib.sha256(content).hexdigest() != bundle_id:
                raise IntegrityError(f"{MANIFEST} of {label(bundle_id)} does not match its id: the store changed it")
            return content

        return twice(attempt)

    def _download(self, bundle_id: str, path: str, facts: Mapping[str, Any], into: Path) -> None:
        file, name = into / path, f"{path} of {label(bundle_id)}"
        file.parent.mkdir(parents=True, exist_ok=True)

        def attempt() -> None:
            try:
                self._objects.download(bundle_key(bundle_id, path), file)
            except Missing as exc:
                raise IntegrityError(f"{name} is missing in the store; publish the bundle again") from exc
            check_file(file, facts, name)

        twice(attempt)


def label(bundle_id: str | None) -> str:
    """A bundle's name in messages."""
    return f"bundle {bundle_id[:12]}" if bundle_id else "nothing"


def _signature_in(folder: Path) -> bytes | None:
    file = folder / SIGNATURE
    return file.read_bytes() if file.exists() else None
