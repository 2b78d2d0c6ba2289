"""A channel: a named pointer to the release in force, with the history of its moves. Stored as

channels/<name>.json {"schema": 1, "bundle": id, "history": [{"bundle", "action", "at", "reason"}, ...]}
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fst.errors import ConfigError, IntegrityError
from fst.files import document

SCHEMA = 1
Action = Literal["release", "rollback"]

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_ID = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Entry:
    """One move of a channel: to `bundle`, at a time in ISO 8601 (UTC)."""

    bundle: str
    action: Action
    at: str
    reason: str


@dataclass(frozen=True)
class Channel:
    """A channel as it was read. `bundle` is None before the first release; `tag` is the store's tag of this content,
    None when it is not stored."""

    name: str
    bundle: str | None = None
    history: tuple[Entry, ...] = ()
    tag: str | None = None

    @property
    def before(self) -> str | None:
        """The release before the one in force, which a rollback returns to; None when there is none."""
        standing = _standing(self.history)
        return standing[-2] if len(standing) > 1 else None

    @property
    def names(self) -> set[str]:
        """Ids of all bundles that it points at or ever did."""
        return {entry.bundle for entry in self.history}

    def with_move(self, entry: Entry) -> Channel:
        """The channel after one more move, not stored."""
        return Channel(self.name, entry.bundle, (*self.history, entry))

    def content(self) -> bytes:
        """The bytes to store."""
        history = [dataclasses.asdict(entry) for entry in self.history]
        return document({"schema": SCHEMA, "bundle": self.bundle, "history": history}).encode()


def _standing(history: Iterable[Entry]) -> list[str]:
    """The releases that lead up to the one in force, which comes last; a rollback removes those after its target."""
    standing: list[str] = []
    for entry in history:
        if entry.action == "rollback" and entry.bundle in standing:
            while standing[-1] != entry.bundle:
                standing.pop()
        elif standing[-1:] != [entry.bundle]:
            standing.append(entry.bundle)
    return standing


def parse_channel(name: str, content: bytes, tag: str | None) -> Channel:
    """Read back the bytes of `Channel.content`. Raises IntegrityError for anything else."""
    try:
        values = json.loads(content)
        if values["schema"] != SCHEMA:
            raise IntegrityError(f"channel {name!r} has schema {values['schema']!r}, this program reads {SCHEMA}")
        history = tuple(_entry(entry) for entry in values["history"])
        if values["bundle"] != (history[-1].bundle if history else None):
            raise ValueError("it does not point at the bundle of its last move")
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise IntegrityError(f"channel {name!r} is damaged in the store ({exc}); restore its file") from exc
    return Channel(name, values["bundle"], history, tag)


def _entry(values: dict[str, Any]) -> Entry:
    entry = Entry(**values)
    if entry.action not in ("release", "rollback") or not _ID.fullmatch(entry.bundle):
        raise ValueError(f"an impossible move: {entry.action} to {entry.bundle}")
    return entry


def check_name(name: str) -> str:
    """Return a valid channel name. Raises ConfigError for any other text."""
    if not _NAME.fullmatch(name) or is_bundle_reference(name):
        raise ConfigError(
            f"channel {name!r}: a name is a-z, 0-9, - and _, starts with a letter, and is not 6 or more hex digits"
        )
    return name


def is_bundle_reference(text: str) -> bool:
    """Whether a text has the form of a bundle's id or of its first digits: 6 to 64 hex digits."""
    return _PREFIX.fullmatch(text) is not None
