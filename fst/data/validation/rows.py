"""What the suites look at: files and logs as tables, a row a line, whatever the lines hold. A line that cannot be read
is a row too. What no column check can see (a question that is in two splits, an answer that its verifier cannot read)
is worked out here and stands in a column of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fst.data.families.jsonl import file_problem, file_rows
from fst.data.prepared import problem_of, read_head, rebuild_verifier, split_rows
from fst.data.rows import RAW, Row
from fst.data.types import SPLITS, Problem, Verifier
from fst.data.validation.cells import (
    MISSING,
    cells,
    is_finite,
    is_token,
    items_kind,
    kind_of,
    length_of,
    list_of,
    number_kind,
    shown,
    stripped,
    text_of,
)
from fst.data.validation.gx import Table
from fst.data.verifiers import EACH, Named, OwnVerifiers, reference_of
from fst.errors import VerifierError

Check = tuple[float | None, str | None]


def raw_table(path: Path) -> Table:
    """The lines of a user's problem file. Raises DataError for a file that cannot be read at all."""
    lines = file_rows(path)
    rows = [line.values for line in lines]
    named = any("split" in row for row in rows if row is not None)
    verifiers = OwnVerifiers()
    checks = [_check_raw(line, verifiers) for line in lines]
    return Table(
        {
            "line": [line.number for line in lines],
            "unreadable": [line.wrong or None for line in lines],
            **_fields(rows),
            "meta_kind": cells(rows, lambda row: kind_of(row, "meta") if "meta" in row else None),
            "split": cells(rows, lambda row: shown(row["split"]) if "split" in row else None),
            "no_split": cells(rows, lambda row: "others have one" if named and "split" not in row else None),
            "unknown_keys": cells(rows, lambda row: ", ".join(repr(k) for k in row if k not in RAW) or None),
            "elsewhere": _elsewhere(
                [(line.values, text_of(line.values, "split"), f"line {line.number}") for line in lines]
            ),
            "reward": [reward for reward, _ in checks],
            "verifier": [trouble for _, trouble in checks],
        },
        ("id", "line"),
    )


def prepared_tables(folder: Path) -> tuple[Table, Table, Table, Table]:
    """Prepared data: its lines; its splits with their sizes; the commonest answer of each; the commonest slice.

    Raises DataError for a folder that is not one of prepared data at all."""
    head = read_head(folder)
    verify, named = rebuild_verifier(head, folder), head["verifier"]
    lines = [(name, line) for name in SPLITS for line in split_rows(folder, name)]
    rows = [line.values for _, line in lines]
    problems = [_problem(row, head["spec"]) for row in rows]
    checks = [_check(p, verify, named) if isinstance(p, Problem) else (None, None) for p in problems]
    parts = {name: [p for p, line in zip(problems, lines, strict=True) if line[0] == name] for name in SPLITS}
    known = {name: [p for p in part if isinstance(p, Problem)] for name, part in parts.items()}
    columns: dict[str, list[Any]] = {
        "file": [f"{name}.jsonl" for name, _ in lines],
        "line": [line.number for _, line in lines],
        "unreadable": [line.wrong or None for _, line in lines],
        "as_written": [p if isinstance(p, str) else None for p in problems],
        **_fields(rows),
        "split": cells(rows, lambda row: text_of(row, "split")),
        "of_file": [name for name, _ in lines],
        "tokens": cells(rows, lambda row: row["tokens"] if type(row.get("tokens")) is int else None),
        "elsewhere": _elsewhere([(line.values, name, f"{name}.jsonl:{line.number}") for name, line in lines]),
        "reward": [reward for reward, _ in checks],
        "verifier": [trouble for _, trouble in checks],
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


def rollout_tables(lines: Iterable[tuple[int, Mapping[str, Any]]]) -> tuple[Table, Table]:
    """Rollouts: the lines, and the channels with the range of their rewards."""
    numbers, rows = [], []
    for number, line in lines:
        numbers.append(number)
        rows.append(dict(line))
    rewards: dict[str, list[float]] = {}
    for row in rows:
        if isinstance(row.get("channel"), str) and number_kind(row, "reward") == "number":
            rewards.setdefault(row["channel"], []).append(row["reward"])
    channels = {name: found for name, found in sorted(rewards.items()) if len(found) > 1}
    table: dict[str, list[Any]] = {
        "line": numbers,
        "id": cells(rows, lambda row: text_of(row, "problem_id")),
        "id_kind": cells(rows, lambda row: kind_of(row, "problem_id")),
        "channel": cells(rows, lambda row: shown(row.get("channel", MISSING))),
        "reward_kind": cells(rows, lambda row: number_kind(row, "reward")),
        "reward": cells(rows, lambda row: row["reward"] if number_kind(row, "reward") == "number" else None),
        "tokens_kind": cells(rows, lambda row: items_kind(row, "tokens", is_token)),
        "tokens": cells(rows, lambda row: length_of(row, "tokens")),
        "logprobs_kind": cells(rows, lambda row: items_kind(row, "logprobs", is_finite)),
        "logprobs": cells(rows, lambda row: length_of(row, "logprobs")),
        "highest": cells(rows, lambda row: max(filter(is_finite, list_of(row, "logprobs")), default=None)),
        "feedback_kind": cells(rows, lambda row: kind_of(row, "feedback")),
    }
    ranges: dict[str, list[Any]] = {
        "channel": list(channels),
        "rollouts": [len(found) for found in channels.values()],
        "highest": [max(found) for found in channels.values()],
        "lowest": [min(found) for found in channels.values()],
    }
    return Table(table, ("id", "line"), "rollouts"), Table(ranges, ("channel", "rollouts"), "channels")


def _fields(rows: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    """The three texts of a problem, without blanks at their ends (ids apart), and their kinds."""
    columns: dict[str, list[Any]] = {"id": cells(rows, lambda row: text_of(row, "id"))}
    for key in ("id", "question", "answer"):
        columns[f"{key}_kind"] = [None if row is None else kind_of(row, key) for row in rows]
        columns[f"{key}_text"] = [None if row is None else stripped(text_of(row, key)) for row in rows]
    return columns


def _elsewhere(asked: Sequence[tuple[Mapping[str, Any] | None, str | None, str]]) -> list[str | None]:
    """For each (row, split, place) one place of another split that has the row's question too. Without splits, every
    other place counts: a question that is there twice is dealt into two of them."""
    questions = [text_of(row, "question") for row, _, _ in asked]
    first: dict[str, dict[str | None, list[str]]] = {}
    for text, (_, split, place) in zip(questions, asked, strict=True):
        if text is not None:
            places = first.setdefault(text, {}).setdefault(split, [])
            if len(places) < 2:
                places.append(place)
    found = []
    for text, (_, split, place) in zip(questions, asked, strict=True):
        others = first[text] if text is not None else {}
        also = [
            p if name is None else f"{name}, {p}"
            for name, places in others.items()
            for p in places
            if p != place and (name is None or name != split)
        ]
        found.append(f"also in {also[0]}" if also else None)
    return found


def _problem(row: Mapping[str, Any] | None, spec: str) -> Problem | str | None:
    """The problem of a prepared line, or what is wrong with the line; None where there is no object."""
    if row is None:
        return None
    try:
        return problem_of(row, spec)
    except ValueError as exc:
        return str(exc)


def _check_raw(line: Row, verify: OwnVerifiers) -> Check:
    row = line.values
    if row is None or any(kind_of(row, key) != "text" or not row[key].strip() for key in ("id", "question", "answer")):
        return None, None
    try:
        problem = file_problem(line, row, "")
    except VerifierError as exc:
        return None, str(exc)
    return _check(problem, verify, {"name": EACH})


def _check(problem: Problem, verify: Verifier, named: Named) -> Check:
    """(the reward of the reference answer, what is wrong with the verifier); either may be None."""
    try:
        if isinstance(verify, OwnVerifiers):
            verify.check(problem)
        reference = reference_of(problem, named)
        return None if reference is None else verify(problem, reference).reward, None
    except VerifierError as exc:
        return None, str(exc)


def _shares(noun: str, values: Mapping[str, Sequence[Any]]) -> Table:
    """The commonest value of each split, with its share of those that there are."""
    columns: dict[str, list[Any]] = {"split": list(values), noun: [], "share": []}
    for found in values.values():
        top = Counter(map(shown, found)).most_common(1)
        columns[noun].append(top[0][0] if top else None)
        columns["share"].append(round(top[0][1] / len(found), 6) if top else None)
    return Table(columns, ("split", noun), "splits")
