"""Append-only files of JSON lines that several processes may write to and read while they grow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 16  # bytes that reading back reads at once


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Add one object as a line, in one write, so that lines of several writers never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode("utf-8", "replace"))
    finally:
        os.close(handle)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, none where there is no file; a line that a crash cut off is skipped."""
    return (values for _, values in read_numbered_lines(path))


def read_numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `read_lines`, each with its line number from 1."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if (values := _object(line)) is not None:
                yield number, values


def read_back(path: Path) -> Iterator[dict[str, Any]]:
    """The objects that `read_lines` gives, the last one first. Reads the file from its end, in blocks, and only as far
    as objects are asked for."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in _lines_back(file):
            if (values := _object(line)) is not None:
                yield values


def ends_in_a_line(path: Path) -> bool:
    """Whether the file's last line is whole: it ends with a newline, or there is none."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines_back(file: BinaryIO) -> Iterator[bytes]:
    at, rest = file.seek(0, os.SEEK_END), b""
    while at > 0:
        size = min(BLOCK, at)
        at = file.seek(at - size)
        rest, *lines = (file.read(size) + rest).split(b"\n")
        yield from reversed(lines)
    yield rest


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
