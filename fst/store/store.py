"""Where releases live, behind one interface: a directory, or a bucket of S3 or of anything that speaks its protocol.

Objects are files under keys such as `channels/prod.json`. Everything but a channel is written once and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from fst.config.sections import StoreParams
from fst.errors import ConfigError, IntegrityError, MissingDependency, StoreError
from fst.store.files import is_inner_path

T = TypeVar("T")


class Missing(KeyError):
    """A key that the store does not hold; for callers within `models`, no user meets it."""


class Stored(NamedTuple):
    """What a listing says of an object; `modified` is in UTC."""

    key: str
    modified: datetime
    bytes: int


class Objects(Protocol):
    """A store. Every method raises StoreError when the store cannot be reached or refuses."""

    def read(self, key: str) -> tuple[bytes, str]:
        """(content, tag); the tag changes with the content. Raises Missing."""

    def download(self, key: str, path: Path) -> None:
        """Write an object's content to a file. Raises Missing. What arrives is not checked: the caller's job."""

    def create(self, key: str, source: Path) -> None:
        """Store a file under a new key. Raises IntegrityError when the key holds other content; the same is kept."""

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        """Write content in place of that which `read` gave this tag (None: of nothing); returns the new
        tag. Raises ChannelMoved when something else is there, and changes nothing then."""

    def list(self, prefix: str) -> Sequence[Stored]:
        """Objects whose keys begin with a text, by key."""

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""

    def sweep(self, before: datetime, dry_run: bool) -> Sequence[str]:
        """Remove what writes that were cut off before a time have left, and that no listing shows; what it was."""


def twice(attempt: Callable[[], T]) -> T:
    """What does not match its checksum may have been cut off on its way: once more, before it is given up."""
    try:
        return attempt()
    except IntegrityError:
        return attempt()


def check_key(key: str) -> str:
    """The key, if it is one. Raises StoreError."""
    if not is_inner_path(key):
        raise StoreError(f"{key!r} is no key of a store: letters, digits, '.', '_' and '-' between slashes")
    return key


def open_store(params: StoreParams) -> Objects:
    """The store that `store.url` names. Raises ConfigError for a URL nobody can read, MissingDependency for S3
    without boto3. Nothing is contacted yet."""
    scheme, sign, rest = params.url.partition("://")
    if not params.url:
        raise ConfigError("store.url: is empty; name a directory or s3://bucket/prefix")
    if not sign:
        from fst.store.local import LocalStore

        return LocalStore(Path(params.url))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigError(f"store.url: {params.url!r} is neither a directory nor s3://bucket/prefix")
    try:
        from fst.store.s3 import S3Store
    except ImportError as exc:
        raise MissingDependency(
            "a store on S3 needs the package boto3: pip install 'fast-slow-training[pipelines]'"
        ) from exc
    return S3Store(bucket, prefix.strip("/"), params.allow_unconditional_writes)
