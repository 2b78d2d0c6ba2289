"""Writing files and folders atomically, and checks of paths and contents."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ABANDONED_SECONDS = 86_400  # a partial folder this old belongs to a process that was killed
_INNER_PATH = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", re.ASCII)


def is_inner_path(path: str) -> bool:
    """Whether a text is a plain relative path: parts separated by single slashes, none starting with a dot."""
    return _INNER_PATH.fullmatch(path) is not None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document(values: Any) -> str:
    """JSON text with sorted keys, so that equal values give equal bytes. Raises ValueError for NaN and infinity."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file's content. A reader, or a crash, sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync a file, or a folder to make the names in it durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """fsync every file below a folder, and the folders themselves."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which replaces `folder` when the block ends without an error and is removed
    otherwise. Several processes may replace one folder at the same time: each fills its own, and the last one wins."""
    _remove_abandoned(folder)
    partial = _beside(folder)
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_folder(partial)
        _take_place(partial, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")


def _take_place(partial: Path, folder: Path) -> None:
    """Swap the folders in two renames, since a folder cannot be renamed over one with files in it. If the second rename
    fails, the first is undone."""
    while True:
        old = _beside(folder)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            partial.rename(folder)
            return
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                with contextlib.suppress(FileNotFoundError):
                    old.rename(folder)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_ctime > ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
