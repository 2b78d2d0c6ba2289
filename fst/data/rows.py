"""Reads the lines of problem files, both users' and prepared ones, and finds mistakes in them.

Mistakes are reported as `file:line: what is wrong; what to do`, and all mistakes of a file at once.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst.data.types import SPLITS
from fst.errors import DataError

MOST_MISTAKES = 20
_NOUNS: dict[type, str] = {str: "text", dict: "object", int: "int"}
_REMEDIES: dict[type, str] = {str: "write it as a text, in quotes", dict: "write {...}"}


@dataclass(frozen=True)
class Row:
    """A line that is not blank: its number from 1, and its JSON object, or else what is wrong and what to do."""

    number: int
    values: Mapping[str, Any] | None
    wrong: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Keys:
    """The keys of a line: the types of their values (`object`: any), and which keys may be missing."""

    types: Mapping[str, type]
    optional: tuple[str, ...]


_TEXTS = {"id": str, "question": str, "answer": str}
_OWN = ("verifier", "feedback", "split", "meta")
RAW = Keys({**_TEXTS, "verifier": object, "feedback": str, "split": object, "meta": dict}, _OWN)
PREPARED = Keys(
    {**_TEXTS, "split": str, "meta": dict, "tokens": int, "line": int, "verifier": dict, "feedback": str},
    ("line", "verifier", "feedback"),
)


def read_rows(path: Path, remedy: str) -> tuple[Row, ...]:
    """Read the lines of a file, without blank ones. Raises DataError, with the remedy, if it cannot be read."""
    return _parse(read_bytes(path, remedy))


def read_bytes(path: Path, remedy: str) -> bytes:
    """Read a file's content. Raises DataError, with the remedy, if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); {remedy}") from exc


@functools.lru_cache(maxsize=4)  # a file that is validated and then loaded is parsed once
def _parse(content: bytes) -> tuple[Row, ...]:
    lines = enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return tuple(_row(number, line) for number, line in lines if line.decode("utf-8", "replace").strip())


def _row(number: int, line: bytes) -> Row:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as exc:
        return Row(number, None, f"byte {exc.start + 1} is not UTF-8", "save the file as UTF-8")
    except (ValueError, RecursionError) as exc:
        return Row(number, None, f"no valid JSON: {exc}", "write one complete object on one line")
    if not isinstance(values, dict):
        return Row(number, None, f"a JSON {type(values).__name__}, no object", 'write {"id": ..., "question": ...}')
    return Row(number, values)


def mistakes(values: Mapping[str, Any], keys: Keys) -> Iterator[tuple[str, str]]:
    """Yield (what is wrong, what to do) for an object's keys; in users' files, texts are checked as well."""
    for name, kind in keys.types.items():
        value: Any = values.get(name)
        if value is None and name not in keys.optional:
            yield f"{name!r} is missing", "add it"
        elif name in values and kind is not object and type(value) is not kind:
            yield f"{name!r} is no {_NOUNS[kind]}", _REMEDIES.get(kind, "")
        elif name not in values:
            continue
        elif keys is RAW and kind is str and not value.strip():
            left_out = "leave the key out" if name in keys.optional else "remove the line"
            yield f"{name!r} is empty", f"write something, or {left_out}"
        elif keys is RAW and kind is str and half_a_pair(value):
            yield f"{name!r} holds half a surrogate pair (\\ud800 to \\udfff)", "write the character itself"
    if keys is RAW and values.get("split", SPLITS[0]) not in SPLITS:
        yield f"'split' is {values['split']!r}", "write train, validation or test"
    for name in values:
        if name not in keys.types:
            close = difflib.get_close_matches(name, keys.types, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(keys.types)}; put others into meta"
            yield f"unknown key {name!r}", hint


def half_a_pair(text: str) -> bool:
    """Whether a text contains half a surrogate pair, which UTF-8 cannot encode."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def refuse(found: Sequence[str], heading: str = "") -> None:
    """Raise DataError with the first 20 mistakes, one per line, if there are any."""
    if found:
        more = [f"... and {len(found) - MOST_MISTAKES} more"] if len(found) > MOST_MISTAKES else []
        raise DataError("\n".join([*([heading] if heading else []), *found[:MOST_MISTAKES], *more]))
