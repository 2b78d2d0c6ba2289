"""A store in a directory: safe for several processes on one machine, or on a file system that they share and that
honours flock.

Content comes to the disk in `.incoming/` before it gets its name, in one rename under the store's lock: a reader or
a crash sees all of an object or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from fst.errors import ChannelMoved, IntegrityError, StoreError
from fst.files import sync
from fst.store.store import Missing, Stored, check_key

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)  # a full disk passes through as what it is


class LocalStore:
    """Objects as files below `root`, which is made when something is first written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: str) -> tuple[bytes, str]:
        with self._open(key) as file:
            content = file.read()
        return content, hashlib.sha256(content).hexdigest()

    def download(self, key: str, path: Path) -> None:
        with self._open(key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)

    def create(self, key: str, source: Path) -> None:
        target = self._path(key)
        with self._incoming() as partial:
            shutil.copyfile(source, partial)
            sync(partial)
            with self._lock():
                if not target.exists():
                    self._give_name(partial, target)
                elif not filecmp.cmp(partial, target, shallow=False):
                    raise IntegrityError(f"{target} holds other content than {source}; what is stored never changes")

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        target = self._path(key)
        with self._incoming() as partial:
            partial.write_bytes(data)
            sync(partial)
            with self._lock():
                now = hashlib.sha256(target.read_bytes()).hexdigest() if target.exists() else None
                if now != tag:
                    raise ChannelMoved(f"{target} was changed meanwhile; nothing was written")
                self._give_name(partial, target)
        return hashlib.sha256(data).hexdigest()

    def list(self, prefix: str) -> Sequence[Stored]:
        found = []
        for parent, folders, names in os.walk(self.root / prefix.rpartition("/")[0], onerror=self._unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                        facts = path.stat()
                        found.append(Stored(key, datetime.fromtimestamp(facts.st_mtime, UTC), facts.st_size))
        return sorted(found)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._refusals(), self._lock():
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # ends with the first folder that is not empty
                for folder in path.relative_to(self.root).parents[:-1]:
                    (self.root / folder).rmdir()

    def sweep(self, before: datetime, dry_run: bool) -> Sequence[str]:
        swept = []
        for path in sorted((self.root / ".incoming").glob("*")):
            with self._refusals(), contextlib.suppress(FileNotFoundError):  # its writer was done meanwhile
                if path.stat().st_mtime < before.timestamp():
                    if not dry_run:
                        path.unlink()
                    swept.append(path.relative_to(self.root).as_posix())
        return swept

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise StoreError(f"{path} is a link that leads out of the store; remove it")
        return path

    def _open(self, key: str) -> BinaryIO:
        with self._refusals():
            try:
                return self._path(key).open("rb")
            except (FileNotFoundError, IsADirectoryError) as exc:
                raise Missing(key) from exc

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A place for content that has no name yet; empty again when the block ends."""
        partial = self.root / ".incoming" / uuid.uuid4().hex
        with self._refusals():
            try:
                partial.parent.mkdir(parents=True, exist_ok=True)
                yield partial
            finally:
                partial.unlink(missing_ok=True)

    def _give_name(self, partial: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)
        for folder in target.relative_to(self.root).parents:
            sync(self.root / folder)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Held while content is compared and gets its name, by one thread of one process."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
            raise StoreError(f"the store in {self.root} refuses: {exc}; check whose it is, or store.url") from exc

    def _unreadable(self, exc: OSError) -> None:
        """A folder that cannot be read must not look like an empty one: what it names would count as unused."""
        if not isinstance(exc, FileNotFoundError):
            raise StoreError(
                f"the store in {self.root} cannot be read: {exc}; check whose it is, or store.url"
            ) from exc
