"""Where things are in a store.

bundles/<id>/<path>            a bundle's files, which never change; manifest.json comes last and goes first
bundles/<id>/removing-<hex>    a note that the bundle is being removed
channels/<name>.json           what is served under a name
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from fst.store.bundle import MANIFEST
from fst.store.store import Objects, Stored

_BUNDLE = re.compile(r"bundles/([0-9a-f]{64})/.+")
_MANIFEST = re.compile(rf"bundles/[0-9a-f]{{64}}/{re.escape(MANIFEST)}")
_NOTE = re.compile(r"bundles/[0-9a-f]{64}/removing-[0-9a-f]+")
_CHANNEL = re.compile(r"channels/(.+)\.json")
_LONGEST_REMOVAL = timedelta(hours=1)  # an older note is of a collector that was killed


def bundle_key(bundle_id: str, path: str = "") -> str:
    """Key of a bundle's file; without a path, what the keys of all its files begin with."""
    return f"bundles/{bundle_id}/{path}"


def channel_key(name: str) -> str:
    return f"channels/{name}.json"


def channel_names(objects: Objects) -> list[str]:
    return [match[1] for stored in objects.list("channels/") if (match := _CHANNEL.fullmatch(stored.key))]


def removal_note(bundle_id: str, collector: str) -> str:
    """Key of the note that one collector makes."""
    return bundle_key(bundle_id, f"removing-{collector}")


def is_being_removed(stored: Iterable[Stored]) -> bool:
    """Whether there is such a note among a bundle's objects."""
    since = datetime.now(UTC) - _LONGEST_REMOVAL
    return any(_NOTE.fullmatch(s.key) and s.modified > since for s in stored)


def is_manifest(stored: Stored) -> bool:
    return _MANIFEST.fullmatch(stored.key) is not None


def stored_bundles(objects: Objects, beginning: str = "") -> dict[str, list[Stored]]:
    """Objects by the id of their bundle, whole or not, for ids that begin with a text."""
    found: dict[str, list[Stored]] = {}
    for stored in objects.list(f"bundles/{beginning}"):
        if match := _BUNDLE.fullmatch(stored.key):
            found.setdefault(match[1], []).append(stored)
    return found
