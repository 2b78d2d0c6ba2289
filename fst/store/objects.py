"""The interface of a store: objects are files under keys such as `channels/prod.json`, in a directory or a bucket.

Every object but a channel is written once and never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from fst.errors import IntegrityError, StoreError
from fst.files import is_inner_path

T = TypeVar("T")


class Missing(KeyError):
    """The store does not hold a key. Handled inside `fst.store`; no user sees it."""


class Stored(NamedTuple):
    """An object in a listing; `modified` is in UTC."""

    key: str
    modified: datetime
    bytes: int


class Objects(Protocol):
    """A store. Every method raises StoreError when the store cannot be reached or refuses."""

    def read(self, key: str) -> tuple[bytes, str]:
        """Return (content, tag); the tag changes with the content. Raises Missing."""

    def download(self, key: str, path: Path) -> None:
        """Write an object's content to a file, unchecked: the caller verifies it. Raises Missing."""

    def create(self, key: str, source: Path) -> None:
        """Store a file under a new key. Does nothing when the key holds the same content already; raises IntegrityError
        when it holds other content."""

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        """Replace the content that `read` returned with this tag (None: the key must be free) and return the new tag.
        Raises ChannelMoved, without writing, when the key holds something else by now."""

    def list(self, prefix: str) -> Sequence[Stored]:
        """Objects whose keys start with `prefix`, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object, if there is one."""

    def sweep(self, before: datetime, dry_run: bool) -> Sequence[str]:
        """Remove what interrupted writes left behind before a time, which no listing shows; returns its names."""


def twice(attempt: Callable[[], T]) -> T:
    """Call `attempt` again after one IntegrityError: the content may have been cut off in transit."""
    try:
        return attempt()
    except IntegrityError:
        return attempt()


def check_key(key: str) -> str:
    """Return a valid key. Raises StoreError for any other text."""
    if not is_inner_path(key):
        raise StoreError(f"{key!r} is no key of a store: letters, digits, '.', '_' and '-' between slashes")
    return key
