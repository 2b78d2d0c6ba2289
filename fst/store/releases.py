"""Releases: the bundles of a store, and the channels that say which of them is served."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fst.config.sections import StoreParams
from fst.errors import ChannelMoved, ConfigError, StoreError
from fst.store import collector
from fst.store.bundle import Bundle
from fst.store.channel import Action, Channel, Entry, check_name, is_bundle_reference, parse_channel
from fst.store.layout import channel_key, channel_names
from fst.store.shelf import Published, Shelf, said
from fst.store.store import Missing, Objects, open_store, twice

__all__ = ["Channel", "Entry", "Published", "Releases"]


class Releases:
    """Every method raises StoreError when the store cannot be reached or refuses, IntegrityError when what it answers
    is not what was stored. `public_key`: a PEM file; with it, only bundles that its private key signed are used."""

    def __init__(self, objects: Objects, public_key: Path | None = None) -> None:
        self._objects = objects
        self._shelf = Shelf(objects, public_key)

    @classmethod
    def open(cls, params: StoreParams) -> Releases:
        """The releases of the store in params.yaml. Nothing is contacted yet. Raises ConfigError for a URL nobody can
        read, MissingDependency for S3 without boto3."""
        return cls(open_store(params), Path(params.public_key) if params.public_key else None)

    # -- bundles ----------------------------------------------------------------------------------------

    def publish(self, folder: Path) -> str:
        """Store a bundle and return its id; see Shelf.publish."""
        return self._shelf.publish(folder)

    def fetch(self, bundle_id: str, into: Path) -> Bundle:
        """A bundle, verified, in a folder of its own; see Shelf.fetch."""
        return self._shelf.fetch(bundle_id, into)

    def manifest(self, bundle_id: str) -> dict[str, Any]:
        """What a bundle says of itself; see Shelf.manifest."""
        return self._shelf.manifest(bundle_id)

    def bundles(self) -> list[Published]:
        """Bundles that are whole in the store, the oldest first."""
        return self._shelf.published()

    def resolve(self, reference: str) -> str:
        """The id of what is meant by a channel's name, an id, or the beginning of one (6 hex digits or more).

        Raises ConfigError when nothing is meant by it, or more than one.
        """
        if is_bundle_reference(reference):
            return _the_one(reference, (bundle.id for bundle in self._shelf.published(reference)), "the store")
        channel = self.channel(reference)
        if channel.bundle is None:
            raise ConfigError(f"channel {reference!r} has no release yet; name another, or the id of a bundle")
        return channel.bundle

    def collect(self, older_than: timedelta, dry_run: bool = False) -> list[str]:
        """Remove bundles that no channel and no channel's history names, and unfinished uploads, when they are older
        than that in all their parts. Returns ids and keys of what was removed, or with `dry_run` of what would be."""
        return collector.collect(self._objects, self._named, datetime.now(UTC) - older_than, dry_run)

    # -- channels ---------------------------------------------------------------------------------------

    def channel(self, name: str) -> Channel:
        """A channel as it is now; one without a release when the store has none of that name."""
        return self._read(check_name(name))

    def channels(self) -> list[Channel]:
        """Every channel that the store has, by name, as it is now."""
        return [self._read(name) for name in channel_names(self._objects)]

    def move(self, channel: Channel, bundle_id: str, action: Action, reason: str) -> Channel:
        """Point a channel, as it was read, at a bundle. Raises ChannelMoved when it moved since, StoreError when the
        bundle is not whole in the store, IntegrityError when it is not signed as it must be; nothing was changed then.
        """
        self._shelf.require_servable(bundle_id)
        entry = Entry(bundle_id, action, datetime.now(UTC).isoformat(), reason)
        moved = self._write(channel, channel.with_move(entry))
        if self._shelf.is_whole(bundle_id):
            return moved
        with contextlib.suppress(ChannelMoved):
            self._write(moved, channel)
        raise StoreError(f"{said(bundle_id)} was removed from the store in this moment; publish it again")

    def rollback(self, name: str, to: str | None = None, reason: str = "") -> Channel:
        """Back to the release before the one in force, or to any that the channel ever pointed at (`to`, an id or the
        beginning of one). Raises ConfigError when there is none, and as `move` does."""
        channel = self.channel(name)
        target = channel.before if to is None else _the_one(to, channel.names, f"the history of channel {name!r}")
        if target is None:
            raise ConfigError(f"channel {name!r}: nothing was released before {said(channel.bundle)}")
        if target == channel.bundle:
            raise ConfigError(f"channel {name!r} points at {said(target)} already")
        return self.move(channel, target, "rollback", reason)

    # -- parts ------------------------------------------------------------------------------------------

    def _read(self, name: str) -> Channel:
        def attempt() -> Channel:
            try:
                return parse_channel(name, *self._objects.read(channel_key(name)))
            except Missing:
                return Channel(name)

        return twice(attempt)

    def _write(self, before: Channel, after: Channel) -> Channel:
        """Store a channel in place of what was read. Raises ChannelMoved."""
        content = after.content()
        try:
            tag = self._objects.replace(channel_key(before.name), content, before.tag)
        except ChannelMoved as exc:
            now = self._read(before.name)
            last = (
                f"{said(now.bundle)} ({now.history[-1].action} of {now.history[-1].at})" if now.history else "nothing"
            )
            raise ChannelMoved(
                f"channel {before.name!r} moved while this was decided: it points at {last} now, it pointed at "
                f"{said(before.bundle)}; nothing was changed, decide again"
            ) from exc
        return parse_channel(before.name, content, tag)

    def _named(self) -> set[str]:
        """Every bundle that a channel points at or ever did."""
        return set().union(*(channel.names for channel in self.channels()))


def _the_one(beginning: str, ids: Iterable[str], place: str) -> str:
    """The id that begins so. Raises ConfigError when none does, or more than one."""
    found = sorted(bundle_id for bundle_id in ids if bundle_id.startswith(beginning))
    if not is_bundle_reference(beginning) or not found:
        raise ConfigError(f"{beginning!r} is not the id of a bundle in {place}, nor 6 digits or more of its beginning")
    if len(found) > 1:
        raise ConfigError(f"{beginning!r} is the beginning of more than one: {', '.join(found)}; give more digits")
    return found[0]
