"""Keys of a store.

bundles/<id>/<path>            a bundle's files, which never change; manifest.json is written last and deleted first
bundles/<id>/removing-<hex>    a note that the bundle is being removed
channels/<name>.json           the releases of a channel
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from fst.store.bundle import MANIFEST
from fst.store.objects import Objects, Stored

_BUNDLE = re.compile(r"bundles/([0-9a-f]{64})/.+")
_MANIFEST = re.compile(rf"bundles/[0-9a-f]{{64}}/{re.escape(MANIFEST)}")
_NOTE = re.compile(r"bundles/[0-9a-f]{64}/removing-[0-9a-f]+")
_CHANNEL = re.compile(r"channels/(.+)\.json")
_LONGEST_REMOVAL = timedelta(hours=1)  # an older note was left by a killed collector


def bundle_key(bundle_id: str, path: str = "") -> str:
    """Key of a bundle's file; without a path, the prefix of the keys of all its files."""
    return f"bundles/{bundle_id}/{path}"


def channel_key(name: str) -> str:
    """Key of a channel."""
    return f"channels/{name}.json"


def channel_names(objects: Objects) -> list[str]:
    """Names of the store's channels, sorted."""
    return [match[1] for stored in objects.list("channels/") if (match := _CHANNEL.fullmatch(stored.key))]


def removal_note(bundle_id: str, collector: str) -> str:
    """Key of the note of one collector."""
    return bundle_key(bundle_id, f"removing-{collector}")


def is_being_removed(stored: Iterable[Stored]) -> bool:
    """Whether a bundle's objects include a recent removal note."""
    since = datetime.now(UTC) - _LONGEST_REMOVAL
    return any(_NOTE.fullmatch(s.key) and s.modified > since for s in stored)


def is_manifest(stored: Stored) -> bool:
    """Whether an object is a bundle's manifest."""
    return _MANIFEST.fullmatch(stored.key) is not None


def stored_bundles(objects: Objects, prefix: str = "") -> dict[str, list[Stored]]:
    """Objects by the id of their bundle, whole or not, for ids with a prefix."""
    found: dict[str, list[Stored]] = {}
    for stored in objects.list(f"bundles/{prefix}"):
        if match := _BUNDLE.fullmatch(stored.key):
            found.setdefault(match[1], []).append(stored)
    return found
