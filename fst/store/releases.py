"""Releases: the bundles of a store, and the channels that say which of them is in force."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fst.config import StoreParams
from fst.errors import ChannelMoved, ConfigError, StoreError
from fst.store import collector
from fst.store.channel import Action, Channel, Entry, check_name, is_bundle_reference, parse_channel
from fst.store.layout import channel_key, channel_names
from fst.store.objects import Missing, twice
from fst.store.opening import open_store
from fst.store.shelf import Shelf, label


class Releases(Shelf):
    """A store's bundles and channels."""

    @classmethod
    def open(cls, params: StoreParams) -> Releases:
        """Open the store of params.yaml, without contacting it yet; raises as `open_store` does."""
        return cls(open_store(params), Path(params.public_key) if params.public_key else None)

    def resolve(self, reference: str) -> str:
        """The id that is meant by a channel's name, an id, or the first digits of one (6 or more, hex).

        Raises ConfigError when that is no bundle, or more than one.
        """
        if is_bundle_reference(reference):
            return _only(reference, (bundle.id for bundle in self.bundles(reference)), "the store")
        channel = self.channel(reference)
        if channel.bundle is None:
            raise ConfigError(f"channel {reference!r} has no release yet; name another, or the id of a bundle")
        return channel.bundle

    def collect(self, older_than: timedelta, dry_run: bool = False) -> list[str]:
        """Remove bundles that no channel points at or ever did, and leftovers of interrupted writes, when all their
        parts are older than that. Returns the ids and keys removed, or with `dry_run` those that would be."""
        return collector.collect(self._objects, self._named, datetime.now(UTC) - older_than, dry_run)

    def channel(self, name: str) -> Channel:
        """A channel as it is now; an unknown name is a channel without a release."""
        return self._read(check_name(name))

    def channels(self) -> list[Channel]:
        """All channels of the store as they are now, sorted by name."""
        return [self._read(name) for name in channel_names(self._objects)]

    def move(self, channel: Channel, bundle_id: str, action: Action, reason: str) -> Channel:
        """Point a channel, as it was read, at a bundle. Raises ChannelMoved when it has moved since, StoreError when
        the bundle is not whole in the store, IntegrityError when a required signature is missing; the channel then
        stays as it is."""
        self._require_servable(bundle_id)
        entry = Entry(bundle_id, action, datetime.now(UTC).isoformat(), reason)
        moved = self._write(channel, channel.with_move(entry))
        if self._whole(bundle_id):
            return moved
        with contextlib.suppress(ChannelMoved):
            self._write(moved, channel)
        raise StoreError(f"{label(bundle_id)} was removed from the store at the same moment; publish it again")

    def rollback(self, name: str, to: str | None = None, reason: str = "") -> Channel:
        """Move a channel back to the release before the one in force, or to any bundle of its history (`to`, an id or
        the first digits of one). Raises ConfigError when there is none, and as `move` does."""
        channel = self.channel(name)
        if channel.bundle is None:
            raise ConfigError(
                f"channel {name!r} has no release yet, so there is none to go back to; "
                "`fst release NAME` makes the first"
            )
        target = channel.before if to is None else _only(to, channel.names, f"the history of channel {name!r}")
        if target is None:
            raise ConfigError(f"channel {name!r}: nothing was released before {label(channel.bundle)}")
        if target == channel.bundle:
            raise ConfigError(f"channel {name!r} points at {label(target)} already")
        return self.move(channel, target, "rollback", reason)

    def _read(self, name: str) -> Channel:
        def attempt() -> Channel:
            try:
                return parse_channel(name, *self._objects.read(channel_key(name)))
            except Missing:
                return Channel(name)

        return twice(attempt)

    def _write(self, before: Channel, after: Channel) -> Channel:
        """Store a channel in place of the one that was read. Raises ChannelMoved."""
        content = after.content()
        try:
            tag = self._objects.replace(channel_key(before.name), content, before.tag)
        except ChannelMoved as exc:
            now = self._read(before.name)
            last = f" ({now.history[-1].action} of {now.history[-1].at})" if now.history else ""
            raise ChannelMoved(
                f"channel {before.name!r} moved while this was decided: it points at {label(now.bundle)}{last} now, it "
                f"pointed at {label(before.bundle)}; nothing was changed, decide again"
            ) from exc
        return parse_channel(before.name, content, tag)

    def _named(self) -> set[str]:
        """Ids of all bundles that a channel points at or ever did."""
        return set().union(*(channel.names for channel in self.channels()))


def _only(prefix: str, ids: Iterable[str], place: str) -> str:
    """The id that starts with `prefix`. Raises ConfigError when there is none, or more than one."""
    found = sorted(bundle_id for bundle_id in ids if bundle_id.startswith(prefix))
    if not is_bundle_reference(prefix) or not found:
        raise ConfigError(f"{prefix!r} is not the id of a bundle in {place}, nor 6 digits or more of its beginning")
    if len(found) > 1:
        raise ConfigError(f"{prefix!r} is the beginning of more than one: {', '.join(found)}; give more digits")
    return found[0]
