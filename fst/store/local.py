"""A store in a directory, safe for several processes on one machine or on a shared file system that honours flock.

Content is written to `.incoming/` and synced before one rename under the store's lock gives it its name, so that a
reader, or a crash, sees all of an object or nothing.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from fst.errors import ChannelMoved, IntegrityError, StoreError
from fst.files import sync
from fst.store.objects import Missing, Stored, check_key

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)  # others, such as a full disk, pass through


class LocalStore:
    """Objects as files below `root`, which the first write creates."""

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
                current = hashlib.sha256(target.read_bytes()).hexdigest() if target.exists() else None
                if current != tag:
                    raise ChannelMoved(f"{target} was changed in the meantime; nothing was written")
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
            with contextlib.suppress(OSError):  # stops at the first folder that is not empty
                for folder in path.relative_to(self.root).parents[:-1]:
                    (self.root / folder).rmdir()

    def sweep(self, before: datetime, dry_run: bool) -> Sequence[str]:
        swept = []
        for path in sorted((self.root / ".incoming").glob("*")):
            with self._refusals(), contextlib.suppress(FileNotFoundError):  # its writer has finished
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
        """A path for content without a name yet, removed when the block ends."""
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

    def _lock(self) -> FileLock:
        """Held by one thread of one process while it compares and renames. The kernel frees it when a process dies; on
        a file system without flock it fails, since a substitute could outlive a killed process."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".lock", fallback_to_soft=False)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
            raise self._refused(exc) from exc

    def _unreadable(self, exc: OSError) -> None:
        """Fail on a folder that cannot be read: if it looked empty, the bundles that it names would count as unused."""
        if not isinstance(exc, FileNotFoundError):
            raise self._refused(exc) from exc

    def _refused(self, exc: OSError) -> StoreError:
        return StoreError(f"no access to the store in {self.root}: {exc}; check its owner and mode, or store.url")
