"""The traffic log: requests with their answers, and the feedback on them, in append-only JSONL segments.

A line is a record with a `kind`:
    request    id, at, tenant, domain ("" when no domain is known), routed (header, model, router, unknown), novelty,
               release, variant (production, canary, shadow), prompt, question, response (the first of n), tokens [read,
               written for that response], seconds, finish (stop, length, error), status (HTTP)
    feedback   id (of the response), at, tenant, reward, answer, comment, scored_by (verifier, client)

`at` is in seconds since the epoch. One process writes; any number of processes read, and see whole lines only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from fst.errors import DataError

Redactor = Callable[[str], str]
_SEGMENT = re.compile(r"traffic-(\d{8})\.jsonl")


@dataclass(frozen=True)
class Request:
    """A request with its answer, as served."""

    id: str
    at: float
    tenant: str
    domain: str
    routed: Literal["header", "model", "router", "unknown"]
    novelty: float
    release: str
    variant: Literal["production", "canary", "shadow"]
    prompt: str
    question: str
    response: str
    tokens: tuple[int, int]
    seconds: float
    finish: Literal["stop", "length", "error"]
    status: int


@dataclass(frozen=True)
class Feedback:
    """Feedback on a response: `reward` in [0, 1] or None, the right `answer` or None, and a comment. If an answer is
    given and the domain has a verifier, the reward is the verifier's (`scored_by`)."""

    id: str
    at: float
    tenant: str
    reward: float | None
    answer: str | None
    comment: str
    scored_by: Literal["verifier", "client"]


Record = Request | Feedback
_KINDS: dict[str, type[Request] | type[Feedback]] = {"request": Request, "feedback": Feedback}
_TEXTS = ("question", "response", "answer", "comment")


@dataclass(frozen=True)
class Position:
    """A place in the log: a segment's number and the byte in it to continue from."""

    segment: int = 0
    byte: int = 0


@dataclass(frozen=True)
class Exchange:
    """A request and the latest feedback on it, or None."""

    request: Request
    feedback: Feedback | None


@dataclass(frozen=True)
class LogLimits:
    """The limits of segments: each ends at a size or an age, and is removed once it is older than the retention."""

    segment_bytes: int = 16 << 20
    segment_seconds: float = 3600.0
    retention_seconds: float = 30 * 86400.0


class TrafficLog:
    """Writes the log. `redact` is applied to every text (question, response, answer, comment) before it is written."""

    def __init__(self, folder: Path, limits: LogLimits, redact: Redactor | None = None) -> None:
        self._folder, self._limits, self._redact = folder, limits, redact
        folder.mkdir(parents=True, exist_ok=True)
        numbers = segments(folder)
        self._number = max(numbers, default=0)
        self._file: BinaryIO | None = None
        self._opened = 0.0

    def append(self, record: Record) -> None:
        """Write a record as one line; readers see it at once."""
        kind = "request" if isinstance(record, Request) else "feedback"
        values = asdict(record)
        if self._redact:
            values.update({key: self._redact(values[key]) for key in _TEXTS if values.get(key)})
        line = json.dumps({"kind": kind, **values}, ensure_ascii=False, separators=(",", ":"))
        file = self._segment()
        file.write(line.encode("utf-8", "replace") + b"\n")
        file.flush()

    def close(self) -> None:
        """End the segment and sync it to disk."""
        if self._file:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def prune(self) -> list[Path]:
        """Remove segments whose last line is older than the retention; returns the removed files."""
        removed = []
        for number, path in segments(self._folder).items():
            if number != self._number and path.stat().st_mtime < time.time() - self._limits.retention_seconds:
                path.unlink()
                removed.append(path)
        return removed

    def _segment(self) -> BinaryIO:
        """The file to write to. A new process begins a new segment, as the last line of the old one may be cut off."""
        if self._file:
            full = self._file.tell() >= self._limits.segment_bytes
            if full or time.monotonic() - self._opened >= self._limits.segment_seconds:
                self.close()
        if self._file is None:
            self._number += 1
            self._file = (self._folder / f"traffic-{self._number:08d}.jsonl").open("ab")
            self._opened = time.monotonic()
            self.prune()
        return self._file


def segments(folder: Path) -> dict[int, Path]:
    """Return the segments of a log by number, the oldest first."""
    found = {}
    for path in sorted(folder.glob("traffic-*.jsonl")) if folder.is_dir() else ():
        if match := _SEGMENT.fullmatch(path.name):
            found[int(match[1])] = path
    return found


def read(folder: Path, since: Position | None = None) -> tuple[list[Record], Position]:
    """Read the records after a position; returns them and the position after the last one. A line that is still being
    written is left for the next call; one that was cut off by a crash is skipped. Raises DataError for an invalid
    line."""
    position = since or Position()
    records: list[Record] = []
    found = segments(folder)
    for number in sorted(n for n in found if n >= position.segment):
        start = position.byte if number == position.segment else 0
        with contextlib.suppress(FileNotFoundError), found[number].open("rb") as file:
            file.seek(start)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                records.append(_record(line, found[number]))
            position = Position(number, start + len(whole))
    return records, position


def exchanges(records: list[Record]) -> Iterator[Exchange]:
    """Yield the requests in order, each with its latest feedback."""
    said = {record.id: record for record in records if isinstance(record, Feedback)}
    for record in records:
        if isinstance(record, Request):
            yield Exchange(record, said.get(record.id))


def _record(line: bytes, path: Path) -> Record:
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("kind")]
        if kind is Request:
            values["tokens"] = tuple(values["tokens"])
        return kind(**values)
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{path}: a line is no record of traffic ({exc}); move the segment away") from exc
