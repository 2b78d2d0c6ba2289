"""The bundles of a store: putting them there, finding them, getting them back.

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
from fst.store.signing import sign, verify
from fst.store.store import Missing, Objects, twice


class Published(NamedTuple):
    """A bundle that is whole in the store, and when its manifest came there (UTC)."""

    id: str
    at: datetime


class Shelf:
    """`public_key` is a PEM file; with it, only bundles that its private key signed are put there or taken."""

    def __init__(self, objects: Objects, public_key: Path | None) -> None:
        self._objects = objects
        self._public_key = public_key

    def publish(self, folder: Path) -> str:
        """Store a bundle and return its id. Doing so again changes nothing, and finishes what was cut off.

        Signed when FST_SIGNING_KEY names a key. Raises IntegrityError for a bundle that is damaged, here or there.
        """
        bundle = read_bundle(folder)
        manifest = document(bundle.manifest).encode()
        signature = sign(manifest) or _signature_in(folder)
        self._verify(bundle.id, manifest, signature)
        for _ in range(2):  # once more when it was removed as abandoned in the same moment
            for path in bundle.manifest["files"]:
                self._create(bundle, path)
            if signature:
                self._store_signature(bundle.id, signature)
            self._create(bundle, MANIFEST)
            if self.is_whole(bundle.id):
                return bundle.id
        raise StoreError(f"{said(bundle.id)} is being removed while it is published; publish it again")

    def fetch(self, bundle_id: str, into: Path) -> Bundle:
        """A bundle, verified, in a folder of its own; what is there already is used, if it is that bundle.

        Raises IntegrityError, naming the file, for what does not match its sha256 or signature, ConfigError for an id
        that is not in the store and for a folder that holds something else. Nothing is left behind then.
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
        """What a bundle says of itself, without its other files. Raises ConfigError for one that is not there."""
        try:
            return parse_manifest(self._manifest(bundle_id), said(bundle_id))
        except Missing as exc:
            raise ConfigError(f"{said(bundle_id)} is not in the store; publish it, or name another") from exc

    def published(self, beginning: str = "") -> list[Published]:
        """Bundles that are whole in the store, the oldest first; of ids that begin with a text."""
        return sorted(
            (
                Published(bundle_id, manifest.modified)
                for bundle_id, stored in stored_bundles(self._objects, beginning).items()
                for manifest in filter(is_manifest, stored)
                if not is_being_removed(stored)
            ),
            key=lambda published: published.at,
        )

    def is_whole(self, bundle_id: str) -> bool:
        """Whether the store has a bundle's manifest and all that it lists, in the right sizes, to stay."""
        return self._whole(bundle_id) is not None

    def require_servable(self, bundle_id: str) -> None:
        """Raises StoreError for a bundle that is not whole in the store, IntegrityError for one that is not signed as
        it must be."""
        manifest = self._whole(bundle_id)
        if manifest is None:
            raise StoreError(f"{said(bundle_id)} is not in the store, or only in part; publish it first")
        self._signature(bundle_id, manifest)

    # -- parts ------------------------------------------------------------------------------------------

    def _whole(self, bundle_id: str) -> bytes | None:
        try:
            manifest = self._manifest(bundle_id)
        except Missing:
            return None
        stored = self._objects.list(bundle_key(bundle_id))
        sizes = {one.key: one.bytes for one in stored}
        files = parse_manifest(manifest, said(bundle_id))["files"]
        whole = all(sizes.get(bundle_key(bundle_id, path)) == facts["bytes"] for path, facts in files.items())
        return manifest if whole and not is_being_removed(stored) else None

    def _create(self, bundle: Bundle, path: str) -> None:
        twice(lambda: self._objects.create(bundle_key(bundle.id, path), bundle.folder / path))

    def _store_signature(self, bundle_id: str, signature: bytes) -> None:
        """Beside the manifest, in place of one by an earlier key."""
        key = bundle_key(bundle_id, SIGNATURE)
        try:
            before, tag = self._objects.read(key)
        except Missing:
            self._objects.replace(key, signature, None)
        else:
            if before != signature:
                self._objects.replace(key, signature, tag)

    def _verify(self, bundle_id: str, manifest: bytes, signature: bytes | None) -> None:
        if self._public_key:
            verify(manifest, signature, self._public_key, said(bundle_id))

    def _signature(self, bundle_id: str, manifest: bytes) -> bytes | None:
        """The signature in the store, verified; None when there is none and none is asked for."""

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
                raise IntegrityError(f"{MANIFEST} of {said(bundle_id)} does not match its id: the store changed it")
            return content

        return twice(attempt)

    def _download(self, bundle_id: str, path: str, facts: Mapping[str, Any], into: Path) -> None:
        file, name = into / path, f"{path} of {said(bundle_id)}"
        file.parent.mkdir(parents=True, exist_ok=True)

        def attempt() -> None:
            try:
                self._objects.download(bundle_key(bundle_id, path), file)
            except Missing as exc:
                raise IntegrityError(f"{name} is missing in the store; publish the bundle again") from exc
            check_file(file, facts, name)

        twice(attempt)


def said(bundle_id: str | None) -> str:
    """How messages name a bundle."""
    return f"bundle {bundle_id[:12]}" if bundle_id else "nothing"


def _signature_in(folder: Path) -> bytes | None:
    file = folder / SIGNATURE
    return file.read_bytes() if file.exists() else None
