"""A channel: a name under which one release is served, with every move that it ever made. Stored as

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
    """One move of a channel. `bundle` is what it points at since; `at` is ISO 8601 in UTC."""

    bundle: str
    action: Action
    at: str
    reason: str


@dataclass(frozen=True)
class Channel:
    """A channel as it was when it was read. `bundle` is None before the first release; `tag` is the store's mark of
    this very content, None when the store has none of it."""

    name: str
    bundle: str | None = None
    history: tuple[Entry, ...] = ()
    tag: str | None = None

    @property
    def before(self) -> str | None:
        """The release before the one in force, where a rollback leads; None when there is none."""
        standing = _standing(self.history)
        return standing[-2] if len(standing) > 1 else None

    @property
    def names(self) -> set[str]:
        """Every bundle that it points at or ever did."""
        return {entry.bundle for entry in self.history}

    def with_move(self, entry: Entry) -> Channel:
        """The channel after one more move, not stored yet."""
        return Channel(self.name, entry.bundle, (*self.history, entry))

    def content(self) -> bytes:
        """What is stored."""
        history = [dataclasses.asdict(entry) for entry in self.history]
        return document({"schema": SCHEMA, "bundle": self.bundle, "history": history}).encode()


def _standing(history: Iterable[Entry]) -> list[str]:
    """The releases that lead to the one in force, which is the last: a rollback takes back what came after."""
    standing: list[str] = []
    for entry in history:
        if entry.action == "rollback" and entry.bundle in standing:
            while standing[-1] != entry.bundle:
                standing.pop()
        elif standing[-1:] != [entry.bundle]:
            standing.append(entry.bundle)
    return standing


def parse_channel(name: str, content: bytes, tag: str | None) -> Channel:
    """What `Channel.content` gave. Raises IntegrityError for anything else."""
    try:
        values = json.loads(content)
        if values["schema"] != SCHEMA:
            raise IntegrityError(f"channel {name!r} has schema {values['schema']!r}, this program reads {SCHEMA}")
        history = tuple(_entry(entry) for entry in values["history"])
        if values["bundle"] != (history[-1].bundle if history else None):
            raise ValueError("it does not point where its last move led")
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise IntegrityError(f"channel {name!r} is damaged in the store ({exc}); restore its file") from exc
    return Channel(name, values["bundle"], history, tag)


def _entry(values: dict[str, Any]) -> Entry:
    entry = Entry(**values)
    if entry.action not in ("release", "rollback") or not _ID.fullmatch(entry.bundle):
        raise ValueError(f"a move that nobody can make: {entry.action} to {entry.bundle}")
    return entry


def check_name(name: str) -> str:
    """The name, if a channel may have it. Raises ConfigError."""
    if not _NAME.fullmatch(name) or is_bundle_reference(name):
        raise ConfigError(
            f"channel {name!r}: a name is a-z, 0-9, - and _, from a letter, and nothing that an id may begin with"
        )
    return name


def is_bundle_reference(text: str) -> bool:
    """Whether a text is a bundle's id or enough of its beginning: 6 hex digits or more."""
    return _PREFIX.fullmatch(text) is not None
