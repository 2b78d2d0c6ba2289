"""What the suites look at: files and logs as tables, a row a line, whatever the lines hold. A line that cannot be read
is a row too. What no column check can see (a question that is in two splits, an answer that its verifier cannot read)
is worked out here and stands in a column of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fst.data.domains import EACH
from fst.data.families.jsonl import KEYS, named_verifier, own_verifier
from fst.data.prepared import SPLITS, numbered, problem_of, read_bytes, read_head, rebuild_verifier, reference_of
from fst.data.types import Problem, Verifier
from fst.data.validation.cells import (
    MISSING,
    Row,
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
from fst.errors import DataError, VerifierError

Check = tuple[float | None, str | None]


def raw_table(path: Path) -> Table:
    """The lines of a user's problem file. Raises DataError for a file that cannot be read at all."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); check the path (from {Path.cwd()})") from exc
    lines = list(_objects(content))
    objects = [row for _, row, _ in lines if row is not None]
    named = any("split" in row for row in objects)
    checks = [_check_raw(row) for _, row, _ in lines]
    asked = [(text_of(row, "question"), text_of(row, "split"), f"line {number}") for number, row, _ in lines]
    rows = [row for _, row, _ in lines]
    return Table(
        {
            "line": [number for number, _, _ in lines],
            "unreadable": [trouble for _, _, trouble in lines],
            **_fields(rows),
            "meta_kind": cells(rows, lambda row: kind_of(row, "meta") if "meta" in row else None),
            "split": cells(rows, lambda row: shown(row["split"]) if "split" in row else None),
            "no_split": cells(rows, lambda row: "others have one" if named and "split" not in row else None),
            "unknown_keys": cells(rows, lambda row: ", ".join(repr(k) for k in row if k not in KEYS) or None),
            "elsewhere": _elsewhere(asked),
            "reward": [reward for reward, _ in checks],
            "verifier": [trouble for _, trouble in checks],
        },
        ("id", "line"),
    )


def prepared_tables(folder: Path) -> tuple[Table, Table, Table, Table]:
    """Prepared data: its lines; its splits with their sizes; the commonest answer of each; the commonest slice.

    Raises DataError for a folder that is not one of prepared data at all."""
    head = read_head(folder)
    verifier = None if head["verifier"]["name"] == EACH else rebuild_verifier(head, folder)
    lines = [(name, *line) for name in SPLITS for line in _objects(read_bytes(folder / f"{name}.jsonl"))]
    rows = [row for _, _, row, _ in lines]
    problems = [_problem(row, head["spec"]) for row in rows]
    checks = [_check(p, head, verifier) if isinstance(p, Problem) else (None, None) for p in problems]
    asked = [(text_of(row, "question"), name, f"{name}.jsonl:{number}") for name, number, row, _ in lines]
    parts = {name: [p for p, line in zip(problems, lines, strict=True) if line[0] == name] for name in SPLITS}
    known = {name: [p for p in part if isinstance(p, Problem)] for name, part in parts.items()}
    columns: dict[str, list[Any]] = {
        "file": [f"{name}.jsonl" for name, _, _, _ in lines],
        "line": [number for _, number, _, _ in lines],
        "unreadable": [trouble for _, _, _, trouble in lines],
        "as_written": [p if isinstance(p, str) else None for p in problems],
        **_fields(rows),
        "split": cells(rows, lambda row: text_of(row, "split")),
        "of_file": [name for name, _, _, _ in lines],
        "tokens": cells(rows, lambda row: row["tokens"] if type(row.get("tokens")) is int else None),
        "elsewhere": _elsewhere(asked),
        "reward": [reward for reward, _ in checks],
        "verifier": [trouble for _, trouble in checks],
    }
    sizes: dict[str, list[Any]] = {
        "split": list(SPLITS),
        "problems": [len(parts[name]) for name in SPLITS],
        "announced": [head["problems"][name] for name in SPLITS],
    }
    answers = {name: [p.answer for p in part if reference_of(p, _named(p, head))] for name, part in known.items()}
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


def _objects(content: bytes) -> Iterator[tuple[int, Row | None, str | None]]:
    """(line number, object or None, why it is None) of the lines that hold anything."""
    for number, line in numbered(content):
        row, trouble = None, None
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            row = json.loads(text)
        except UnicodeDecodeError as exc:
            trouble = f"byte {exc.start + 1} is not UTF-8"
        except (ValueError, RecursionError) as exc:
            trouble = f"no valid JSON: {exc}"
        if trouble is None and not isinstance(row, dict):
            row, trouble = None, f"a JSON {type(row).__name__}, no object"
        yield number, row, trouble


def _fields(rows: Sequence[Row | None]) -> dict[str, list[Any]]:
    """The three texts of a problem, without blanks at their ends (ids apart), and their kinds."""
    columns: dict[str, list[Any]] = {"id": cells(rows, lambda row: text_of(row, "id"))}
    for key in ("id", "question", "answer"):
        columns[f"{key}_kind"] = [None if row is None else kind_of(row, key) for row in rows]
        columns[f"{key}_text"] = [None if row is None else stripped(text_of(row, key)) for row in rows]
    return columns


def _elsewhere(asked: Sequence[tuple[str | None, str | None, str]]) -> list[str | None]:
    """For each (question, split, place) one place of another split that has the question too. Without splits, every
    other place counts: a question that is there twice is dealt into two of them."""
    first: dict[str, dict[str | None, list[str]]] = {}
    for text, split, place in asked:
        if text is not None:
            places = first.setdefault(text, {}).setdefault(split, [])
            if len(places) < 2:
                places.append(place)
    found = []
    for text, split, place in asked:
        others = first[text] if text is not None else {}
        also = [
            p if name is None else f"{name}, {p}"
            for name, places in others.items()
            for p in places
            if p != place and (name is None or name != split)
        ]
        found.append(f"also in {also[0]}" if also else None)
    return found


def _problem(row: Row | None, spec: str) -> Problem | str | None:
    """The problem of a prepared line, or what is wrong with the line; None where there is no object."""
    if row is None:
        return None
    try:
        return problem_of(row, spec)
    except ValueError as exc:
        return str(exc)


def _check_raw(row: Row | None) -> Check:
    if row is None or any(kind_of(row, key) != "text" or not row[key].strip() for key in ("id", "question", "answer")):
        return None, None
    meta = row.get("meta", {})
    try:
        named = named_verifier(row.get("verifier", "exact"))
    except VerifierError as exc:
        return None, str(exc)
    texts = (row["id"], "", row["question"], row["answer"])
    return _check(Problem(*texts, meta if isinstance(meta, dict) else {}, named), {"verifier": {"name": EACH}}, None)


def _check(problem: Problem, head: Mapping[str, Any], verifier: Verifier | None) -> Check:
    """(the reward of the reference answer, what is wrong with the verifier); either may be None."""
    try:
        verify = verifier or own_verifier(problem)
        reference = reference_of(problem, _named(problem, head))
        return None if reference is None else verify(problem, reference).reward, None
    except VerifierError as exc:
        return None, str(exc)


def _named(problem: Problem, head: Mapping[str, Any]) -> Mapping[str, Any]:
    """The verifier that scores a problem, by name and options."""
    own = problem.verifier or {"name": "exact"}
    return own if head["verifier"]["name"] == EACH else head["verifier"]


def _shares(noun: str, values: Mapping[str, Sequence[Any]]) -> Table:
    """The commonest value of each split, with its share of those that there are."""
    columns: dict[str, list[Any]] = {"split": list(values), noun: [], "share": []}
    for found in values.values():
        top = Counter(map(shown, found)).most_common(1)
        columns[noun].append(top[0][0] if top else None)
        columns["share"].append(round(top[0][1] / len(found), 6) if top else None)
    return Table(columns, ("split", noun), "splits")
