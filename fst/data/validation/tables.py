"""Makes the tables that the suites check: problem files and rollout logs, with a row for every line, even one that
cannot be read. What no check of a single column can see (a question that is in two splits, an answer that its verifier
cannot read) is computed here and has its own column."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fst.data.families.jsonl import ProblemFile
from fst.data.prepared import problem_of, read_head, rebuild_verifier, split_rows
from fst.data.rows import RAW, Row, half_a_pair
from fst.data.types import SPLITS, Problem
from fst.data.validation.gx import Table
from fst.data.validation.verdicts import Check, check, told_once
from fst.data.verifiers import EACH, reference_of
from fst.errors import VerifierError

Values = Mapping[str, Any]  # the object on a line

_TEXTS = ("id", "question", "answer")
_MISSING = "missing"
_KINDS = {str: "text", dict: "object", list: "list", bool: "true or false", type(None): "null"}
_LONGEST = 80  # characters of a value that is shown


def raw_table(file: ProblemFile) -> Table:
    """Make the table of a user's problem file. Raises VerifierError for an invalid default verifier."""
    lines = file.rows
    rows = [line.values for line in lines]
    named = any("split" in row for row in rows if row is not None)
    checks = told_once([_check_raw(line, file) for line in lines])
    asked = [(line.values, _text(line.values, "split"), f"line {line.number}") for line in lines]
    return Table(
        {
            "line": [line.number for line in lines],
            "unreadable": [line.wrong or None for line in lines],
            **_texts(rows),
            "meta_kind": _column(rows, lambda row: _kind(row, "meta") if "meta" in row else None),
            "feedback_kind": _column(rows, lambda row: _kind(row, "feedback") if "feedback" in row else None),
            "split": _column(rows, lambda row: _shown(row["split"]) if "split" in row else None),
            "no_split": _column(rows, lambda row: "others have one" if named and "split" not in row else None),
            "unknown_keys": _column(rows, lambda row: ", ".join(repr(k) for k in row if k not in RAW.types) or None),
            "elsewhere": _elsewhere(asked),
            "reward": [one.reward for one in checks],
            "verifier": [one.trouble for one in checks],
        },
        ("id", "line"),
    )


def prepared_tables(folder: Path) -> tuple[Table, Table, Table, Table]:
    """Make the tables of prepared data: its lines; its splits with their sizes; the most common answer and slice of
    each.

    Raises DataError for a folder that does not have prepared data."""
    head = read_head(folder)
    verify, named = rebuild_verifier(head, folder), head["verifier"]
    lines = [(name, line) for name in SPLITS for line in split_rows(folder, name)]
    rows = [line.values for _, line in lines]
    problems = [_problem(row, head["spec"]) for row in rows]
    checks = told_once([check(p, verify, named) if isinstance(p, Problem) else Check() for p in problems])
    parts = {name: [p for p, line in zip(problems, lines, strict=True) if line[0] == name] for name in SPLITS}
    known = {name: [p for p in part if isinstance(p, Problem)] for name, part in parts.items()}
    columns: dict[str, list[Any]] = {
        "file": [f"{name}.jsonl" for name, _ in lines],
        "line": [line.number for _, line in lines],
        "unreadable": [line.wrong or None for _, line in lines],
        "as_written": [p if isinstance(p, str) else None for p in problems],
        **_texts(rows),
        "split": _column(rows, lambda row: _text(row, "split")),
        "of_file": [name for name, _ in lines],
        "tokens": _column(rows, lambda row: row["tokens"] if type(row.get("tokens")) is int else None),
        "elsewhere": _elsewhere([(line.values, name, f"{name}.jsonl:{line.number}") for name, line in lines]),
        "reward": [one.reward for one in checks],
        "verifier": [one.trouble for one in checks],
    }
    sizes: dict[str, list[Any]] = {
        "split": list(SPLITS),
        "problems": [len(parts[name]) for name in SPLITS],
        "announced": [head["problems"][name] for name in SPLITS],
    }
    answers = {name: [p.answer for p in part if reference_of(p, named)] for name, part in known.items()}
    slices = {name: [p.meta["branch"] for p in part if "branch" in p.meta] for name, part in known.items()}
    table = Table(columns, ("id", "file", "line"))
    return table, Table(sizes, ("split",), "splits"), _shares("answer", answers), _shares("slice", slices)


def rollout_tables(lines: Iterable[tuple[int, Values]]) -> tuple[Table, Table]:
    """Make the tables of rollouts: the lines, and the channels with the range of their rewards."""
    numbered = [(number, {key: value for key, value in row.items() if key != "text"}) for number, row in lines]
    rows = [row for _, row in numbered]
    rewards: dict[str, list[float]] = {}
    for row in rows:
        if isinstance(row.get("channel"), str) and _number_kind(row, "reward") == "number":
            rewards.setdefault(row["channel"], []).append(row["reward"])
    channels = {name: found for name, found in sorted(rewards.items()) if len(found) > 1}
    table: dict[str, list[Any]] = {
        "line": [number for number, _ in numbered],
        "id": _column(rows, lambda row: _text(row, "problem_id")),
        "id_kind": _column(rows, lambda row: _kind(row, "problem_id")),
        "channel": _column(rows, lambda row: _shown(row.get("channel", _MISSING))),
        "reward_kind": _column(rows, lambda row: _number_kind(row, "reward")),
        "reward": _column(rows, lambda row: row["reward"] if _number_kind(row, "reward") == "number" else None),
        "tokens_kind": _column(rows, lambda row: _number_kind(row, "tokens")),
        "tokens": _column(rows, lambda row: row["tokens"] if type(row.get("tokens")) is int else None),
        "logprob_kind": _column(rows, lambda row: _number_kind(row, "logprob")),
        "logprob": _column(rows, lambda row: row["logprob"] if _number_kind(row, "logprob") == "number" else None),
        "feedback_kind": _column(rows, lambda row: _kind(row, "feedback")),
    }
    ranges: dict[str, list[Any]] = {
        "channel": list(channels),
        "rollouts": [len(found) for found in channels.values()],
        "highest": [max(found) for found in channels.values()],
        "lowest": [min(found) for found in channels.values()],
    }
    return Table(table, ("id", "line"), "rollouts"), Table(ranges, ("channel", "rollouts"), "channels")


# -- columns of problems ------------------------------------------------------------------------------------


def _column(rows: Sequence[Values | None], cell: Callable[[Values], Any]) -> list[Any]:
    """Make a cell per row; None if the line has no object, so that it is not checked."""
    return [None if row is None else cell(row) for row in rows]


def _texts(rows: Sequence[Values | None]) -> dict[str, list[Any]]:
    """Make the columns of the id, and of the three texts of a problem, stripped, with their kinds."""
    columns = {"id": _column(rows, lambda row: _text(row, "id"))}
    for key in _TEXTS:
        texts = [_text(row, key) for row in rows]
        columns[f"{key}_kind"] = [None if row is None else _kind(row, key) for row in rows]
        columns[f"{key}_text"] = [None if text is None else text.strip() for text in texts]
    return columns


def _elsewhere(asked: Sequence[tuple[Values | None, str | None, str]]) -> list[str | None]:
    """For each (row, split, place), find a place in another split with the same question. Without splits, every other
    place counts, since a repeated question may be dealt into two of them."""
    questions = [_text(row, "question") for row, _, _ in asked]
    first: dict[str, dict[str | None, list[str]]] = {}
    for question, (_, split, place) in zip(questions, asked, strict=True):
        if question is not None:
            places = first.setdefault(question, {}).setdefault(split, [])
            if len(places) < 2:
                places.append(place)
    found = []
    for question, (_, split, place) in zip(questions, asked, strict=True):
        others = first[question] if question is not None else {}
        also = [
            p if name is None else f"{name}, {p}"
            for name, places in others.items()
            for p in places
            if p != place and (name is None or name != split)
        ]
        found.append(f"also in {also[0]}" if also else None)
    return found


def _problem(row: Values | None, spec: str) -> Problem | str | None:
    """Return the problem of a prepared line, or what is wrong with the line; None if the line has no object."""
    try:
        return None if row is None else problem_of(row, spec)
    except ValueError as exc:
        return str(exc)


def _check_raw(line: Row, file: ProblemFile) -> Check:
    row = line.values
    if row is None or any(_kind(row, key) != "text" or not row[key].strip() for key in _TEXTS):
        return Check()
    try:
        problem = file.problem(line, row)
    except VerifierError as exc:
        return Check(trouble=str(exc))
    return check(problem, file.verifiers, {"name": EACH})


def _shares(noun: str, values: Mapping[str, Sequence[Any]]) -> Table:
    """Find the most common value in each split, with its share."""
    columns: dict[str, list[Any]] = {"split": list(values), noun: [], "share": []}
    for found in values.values():
        top = Counter(map(_shown, found)).most_common(1)
        columns[noun].append(top[0][0] if top else None)
        columns["share"].append(round(top[0][1] / len(found), 6) if top else None)
    return Table(columns, ("split", noun), "splits")


# -- cells --------------------------------------------------------------------------------------------------


def _kind(row: Values, key: str) -> str:
    """The kind of a value: text, object, list ...; with the value itself if it is short and neither text nor object."""
    if key not in row:
        return _MISSING
    value = row[key]
    if isinstance(value, str):
        return "half a surrogate pair" if half_a_pair(value) else "text"
    kind = _KINDS.get(type(value), "number")
    return kind if isinstance(value, dict) or value is None else f"{kind}: {_shown(value)}"


def _number_kind(row: Values, key: str) -> str:
    """`number` for a finite one."""
    value = row.get(key)
    if type(value) not in (int, float):
        return f"text: {_shown(value)}" if type(value) is str else _kind(row, key)
    return "number" if _is_finite(value) else str(value)


def _text(row: Values | None, key: str) -> str | None:
    value = row.get(key) if row is not None else None
    return value if isinstance(value, str) else None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_finite(item: Any) -> bool:
    """Whether an item is a finite number; integers of any size are."""
    return type(item) is int or (type(item) is float and math.isfinite(item))
