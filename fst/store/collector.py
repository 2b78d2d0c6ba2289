"""Removing what is no longer needed: bundles that no channel ever pointed at, and leftovers of interrupted writes.

A bundle may be released while it is being removed. A note beside it marks the removal, from before the channels are
read for the last time until the bundle is gone, and a bundle with a note does not count as whole. A move checks again
that its bundle is whole after writing the channel, and is undone when it is not. So either the collector sees the move
or the move sees the note.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from fst.store.layout import is_manifest, removal_note, stored_bundles
from fst.store.objects import Objects


def collect(objects: Objects, named: Callable[[], set[str]], before: datetime, dry_run: bool) -> list[str]:
    """Remove unnamed bundles and leftovers all of whose parts are older than a time; returns ids and keys.

    `named` reads every channel and returns the bundle ids that any of them names. If a channel cannot be read it
    raises, and nothing more is removed.
    """
    removed = []
    kept = named()
    for bundle_id, stored in stored_bundles(objects).items():
        unneeded = bundle_id not in kept and all(s.modified < before for s in stored)
        if unneeded and (dry_run or _remove(objects, named, bundle_id, before)):
            removed.append(bundle_id)
    return [*removed, *objects.sweep(before, dry_run)]


def _remove(objects: Objects, named: Callable[[], set[str]], bundle_id: str, before: datetime) -> bool:
    """Remove a bundle; False, without removing it, when it is named or renewed by now."""
    note = removal_note(bundle_id, uuid.uuid4().hex)
    stored = stored_bundles(objects, bundle_id).get(bundle_id, [])
    objects.replace(note, b"", None)
    try:
        if bundle_id in named() or any(s.modified >= before for s in stored):
            return False
        for part in sorted(stored, key=is_manifest, reverse=True):  # without its manifest it is no bundle any more
            objects.delete(part.key)
        return True
    finally:
        objects.delete(note)
