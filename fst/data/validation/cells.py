"""Cells of the tables that the suites look at: what a JSON value is, and how it is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fst.data.rows import half_a_pair

MISSING = "missing"
_KINDS = {str: "text", dict: "object", list: "list", bool: "true or false", type(None): "null"}
_LONGEST = 80

Cells = Mapping[str, Any]


def cells(rows: Sequence[Cells | None], cell: Callable[[Cells], Any]) -> list[Any]:
    """A column; where there is no object there is nothing to check."""
    return [None if row is None else cell(row) for row in rows]


def kind_of(row: Cells, key: str) -> str:
    """The kind of a value: text, object, list ...; with the value itself where it is short and no text or object."""
    if key not in row:
        return MISSING
    value = row[key]
    if isinstance(value, str):
        return "half a surrogate pair" if half_a_pair(value) else "text"
    kind = _KINDS.get(type(value), "number")
    return kind if isinstance(value, dict) or value is None else f"{kind}: {shown(value)}"


def number_kind(row: Cells, key: str) -> str:
    """`number` for a finite one."""
    value = row.get(key)
    if type(value) not in (int, float):
        return kind_of(row, key) if type(value) is not str else f"text: {shown(value)}"
    return "number" if is_finite(value) else str(value)


def text_of(row: Cells | None, key: str) -> str | None:
    value = row.get(key) if row is not None else None
    return value if isinstance(value, str) else None


def stripped(text: str | None) -> str | None:
    return text if text is None else text.strip()


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def list_of(row: Cells, key: str) -> list[Any]:
    value = row.get(key)
    return list(value) if isinstance(value, list | tuple) else []


def length_of(row: Cells, key: str) -> int | None:
    return len(row[key]) if isinstance(row.get(key), list | tuple) else None


def items_kind(row: Cells, key: str, right: Callable[[Any], bool]) -> str:
    """`list` for one whose items are all right, else what it is, or the first item that is not."""
    if not isinstance(row.get(key), list | tuple):
        return kind_of(row, key)
    wrong = [shown(item) for item in row[key] if not right(item)]
    return f"item {wrong[0]}" if wrong else "list"


def is_token(item: Any) -> bool:
    return type(item) is int and item >= 0


def is_finite(item: Any) -> bool:
    """Whether it is a number; whole ones of any size are."""
    return type(item) is int or (type(item) is float and math.isfinite(item))
