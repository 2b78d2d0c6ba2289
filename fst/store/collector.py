"""Removing what nobody needs: bundles that no channel ever pointed at, and uploads that were never finished.

A bundle may be released while it is being removed. Therefore a note beside it says so from before the channels are
read for the last time until it is gone, and with such a note a bundle does not count as whole. A move looks whether
its bundle is whole once it is made, and is undone when it is not: either the collector sees the move, or the move sees
the note.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from fst.store.layout import is_manifest, removal_note, stored_bundles
from fst.store.store import Objects


def collect(objects: Objects, named: Callable[[], set[str]], before: datetime, dry_run: bool) -> list[str]:
    """Remove what is unnamed and older than a time in all its parts; ids of bundles and keys of uploads.

    `named` reads every channel and gives the ids that one names; it raises when one cannot be read, and nothing more
    is removed then.
    """
    removed = []
    kept = named()
    for bundle_id, stored in stored_bundles(objects).items():
        unneeded = bundle_id not in kept and all(s.modified < before for s in stored)
        if unneeded and (dry_run or _remove(objects, named, bundle_id, before)):
            removed.append(bundle_id)
    return [*removed, *objects.sweep(before, dry_run)]


def _remove(objects: Objects, named: Callable[[], set[str]], bundle_id: str, before: datetime) -> bool:
    """Whether it was removed; it is not when somebody needs it by now."""
    note = removal_note(bundle_id, uuid.uuid4().hex)
    stored = stored_bundles(objects, bundle_id).get(bundle_id, [])
    objects.replace(note, b"", None)
    try:
        if bundle_id in named() or any(s.modified >= before for s in stored):
            return False
        for part in sorted(stored, key=is_manifest, reverse=True):  # without it, what is left is not a bundle
            objects.delete(part.key)
        return True
    finally:
        objects.delete(note)
