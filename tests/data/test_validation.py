"""Validation. The invariants:

v1  raw: every expectation catches what breaks it, with id and line, and nothing else is accused; what the loader
    refuses is never let through; all offending rows are told
v2  prepared: the same, of the folder that a stage reads
v3  rollouts: the same, of the lines in force
v4  a critical finding stops, a warning does not
v5  findings and page are the same bytes every time, need nothing from outside, and show what is there, escaped
v6  nothing is sent, nothing is printed, and 10,000 rows take seconds
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from fst.config import ValidateParams
from fst.data.domains import load_domain
from fst.data.prepared import write_prepared
from fst.data.types import SplitSizes
from fst.data.validation import (
    Finding,
    Validation,
    require,
    table,
    validate_prepared,
    validate_raw,
    validate_rollouts,
    write_page,
)
from fst.data.validation.gx import Table, library, run_suite
from fst.errors import DataError, MissingDependency, ValidationFailed
from fst.runs.records import RunFolder, rollouts_of
from fst.types import Rollout

PARAMS = ValidateParams(min_problems=4)
Where = list[tuple[Any, Any]]
Change = Callable[[dict[str, Any]], Any]


def failing(validation: Validation) -> dict[str, Where]:
    """Broken expectation -> (id, line) of its rows."""
    return {f.expectation: [(row.get("id"), row.get("line")) for row in f.failed_rows] for f in validation.failing}


def values_of(validation: Validation) -> dict[str, list[Any]]:
    return {finding.expectation: [row["value"] for row in finding.failed_rows] for finding in validation.failing}


# -- v1: a user's file -------------------------------------------------------------------------------------

SPLITS = ("train", "validation", "test")


def raw_row(number: int, **more: Any) -> dict[str, Any]:
    row = {"id": f"p{number}", "question": f"what is {number}?", "answer": str(number), "split": SPLITS[number % 3]}
    return {**row, **more}


def write_raw(path: Path, rows: Iterable[Any]) -> Path:
    """A line a row; texts and bytes are lines as they are."""
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return path


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


CLEAN_RAW = [
    raw_row(0),
    raw_row(1, verifier="numeric", meta={"k": 1}),
    raw_row(2, verifier={"name": "regex", "ignore_case": True}, answer="[0-9]+x"),
    raw_row(3, verifier={"name": "exact", "ignore_case": True}),
    raw_row(4, question="what is 7?"),
    raw_row(7),
    raw_row(8, verifier={"name": "multiple_choice"}, answer="B"),
    raw_row(9),
]

VERIFIERS = "Every verifier exists, takes its options and can read the reference answer."
TWO_SPLITS = "No question can end up in two splits."

PLANTED_RAW: list[tuple[str, Any, Where, list[Any]]] = [
    ("Every line is one JSON object.", '{"id": "x", ', [(None, 3)], ["no valid JSON: Expecting property name"]),
    ("Every line is one JSON object.", "[1]", [(None, 3)], ["a JSON list, no object"]),
    ("Every line is one JSON object.", "[" * 100_000, [(None, 3)], ["no valid JSON: maximum recursion"]),
    ("Every line is one JSON object.", b'{"id": "\xff"}', [(None, 3)], ["byte 9 is not UTF-8"]),
    (
        "Every key is one that a problem has; all others belong into meta.",
        raw_row(9, spilt=1, **{"": 2}),
        [("p9", 3)],
        ["'spilt', ''"],
    ),
    ("Every problem has its id, and it is a text.", raw_row(9, id=9), [(None, 3)], ["number: 9"]),
    ("Every problem has its id, and it is a text.", without(raw_row(9), "id"), [(None, 3)], ["missing"]),
    ("Every problem has its question, and it is a text.", raw_row(9, question=[1]), [("p9", 3)], ["list: [1]"]),
    ("Every problem has its question, and it is a text.", raw_row(9, question=None), [("p9", 3)], ["null"]),
    ("Every problem has its answer, and it is a text.", raw_row(9, answer=True), [("p9", 3)], ["true or false: true"]),
    ("Every problem has its answer, and it is a text.", raw_row(9, answer="\ud800"), [("p9", 3)], ["half a surrogate"]),
    ("No id is empty.", raw_row(9, id="  "), [("  ", 3)], [""]),
    ("No question is empty.", raw_row(9, question="\u3000\n"), [("p9", 3)], [""]),
    ("No answer is empty.", raw_row(9, answer=""), [("p9", 3)], [""]),
    ("Every id is used once.", raw_row(10, id="p1"), [("p1", 2), ("p1", 3)], ["p1", "p1"]),
    ("Every meta is an object.", raw_row(9, meta=[1]), [("p9", 3)], ["list: [1]"]),
    ("Every feedback is a text.", raw_row(9, feedback=["no"]), [("p9", 3)], ['list: ["no"]']),
    ("Every split is train, validation or test.", raw_row(9, split="dev"), [("p9", 3)], ["dev"]),
    ("Every split is train, validation or test.", raw_row(9, split=None), [("p9", 3)], ["null"]),
    ("Every problem names its split, or none does.", without(raw_row(9), "split"), [("p9", 3)], ["others have one"]),
    (
        TWO_SPLITS,
        raw_row(9, split="test", question="what is 1?"),
        [("p1", 2), ("p9", 3)],
        ["also in test, line 3", "also in validation, line 2"],
    ),
    (VERIFIERS, raw_row(9, verifier="exat"), [("p9", 3)], ["unknown verifier 'exat'"]),
    (VERIFIERS, raw_row(9, verifier={"name": "exact", "x": 1}), [("p9", 3)], ["verifier 'exact' has no option 'x'"]),
    (VERIFIERS, raw_row(9, verifier=3), [("p9", 3)], ["'verifier' must be a name"]),
    (VERIFIERS, raw_row(9, verifier="numeric", answer="many"), [("p9", 3)], ["problem 'p9': 'numeric' needs a number"]),
    (VERIFIERS, raw_row(9, verifier="regex", answer="("), [("p9", 3)], ["the pattern '(' is no regular expression"]),
    (
        "Every reference answer earns the full reward.",
        raw_row(9, verifier={"name": "regex", "pattern": "x+"}),
        [("p9", 3)],
        [0.0],
    ),
]


def raw_with(tmp_path: Path, planted: Any) -> Path:
    return write_raw(tmp_path / "problems.jsonl", [*CLEAN_RAW[:2], planted, *CLEAN_RAW[2:7]])


def test_v1_a_clean_file_passes(tmp_path: Path) -> None:
    path = write_raw(
        tmp_path / "problems.jsonl", [b"\xef\xbb\xbf" + json.dumps(CLEAN_RAW[0]).encode(), *CLEAN_RAW[1:], ""]
    )
    found = validate_raw(path)
    assert (found.suite, found.subject, found.rows, found.ok) == ("raw", "problems.jsonl", 8, True)
    assert failing(found) == {}
    assert load_domain(str(path), SplitSizes(2, 2, 2), 0).train  # and the loader agrees


@pytest.mark.parametrize(("sentence", "planted", "where", "values"), PLANTED_RAW)
def test_v1_a_planted_violation_is_caught(
    tmp_path: Path, sentence: str, planted: Any, where: Where, values: list[Any]
) -> None:
    path = raw_with(tmp_path, planted)
    found = validate_raw(path)
    assert failing(found) == {sentence: where}
    for value, beginning in zip(values_of(found)[sentence], values, strict=True):
        assert value == beginning or (isinstance(beginning, str) and beginning and str(value).startswith(beginning))
    assert not found.ok


def test_v1_every_expectation_has_its_violation(tmp_path: Path) -> None:
    known = {finding.expectation for finding in validate_raw(raw_with(tmp_path, raw_row(9))).findings}
    assert known - {sentence for sentence, *_ in PLANTED_RAW} == {"The file holds at least one line."}


@pytest.mark.parametrize("planted", [planted for sentence, planted, *_ in PLANTED_RAW if "full reward" not in sentence])
def test_v1_what_is_accused_is_what_the_loader_refuses(tmp_path: Path, planted: Any) -> None:
    with pytest.raises(DataError):
        load_domain(str(raw_with(tmp_path, planted)), SplitSizes(1, 1, 1), 0)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_v1_a_file_without_lines(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content)
    found = validate_raw(path)
    assert failing(found) == {"The file holds at least one line.": []}
    assert found.failing[0].observed == "0 rows"


def test_v1_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"problems.jsonl: cannot be read \(No such file"):
        validate_raw(tmp_path / "problems.jsonl")


def test_v1_without_splits_a_question_twice_is_a_leak(tmp_path: Path) -> None:
    rows = [without(raw_row(number), "split") for number in range(5)]
    rows[3]["question"] = rows[1]["question"]
    found = validate_raw(write_raw(tmp_path / "a.jsonl", rows))
    assert failing(found) == {TWO_SPLITS: [("p1", 2), ("p3", 4)]}
    assert values_of(found)[TWO_SPLITS] == ["also in line 4", "also in line 2"]
    same_split = [raw_row(0), raw_row(3, question="what is 0?"), raw_row(1), raw_row(2)]
    assert failing(validate_raw(write_raw(tmp_path / "b.jsonl", same_split))) == {}


def test_v1_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    rows = [raw_row(n, answer="" if n % 2 else str(n), question=None if n % 5 == 0 else f"q{n}") for n in range(300)]
    found = validate_raw(write_raw(tmp_path / "a.jsonl", rows))
    facts = {f.expectation: (f.failed, len(f.failed_rows), f.observed) for f in found.failing}
    assert facts == {
        "No answer is empty.": (150, 100, "150 of 300 rows"),
        "Every problem has its question, and it is a text.": (60, 60, "60 of 300 rows"),
    }
    lines = [row["line"] for f in found.failing for row in f.failed_rows if f.expectation == "No answer is empty."]
    assert lines == list(range(2, 202, 2))


# -- v2: prepared data -------------------------------------------------------------------------------------

CONDITIONAL = "lab/if_first_even(sort_desc,reverse)"
FULL = "The domain's own verifier gives every reference answer the full reward."
FITS = "Every question fits the model's context: at most 60 tokens."
TEST = "test.jsonl"


@pytest.fixture(scope="module")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "first"
    domain = load_domain(CONDITIONAL, SplitSizes(20, 10, 10), seed=0)
    write_prepared(domain, folder, lambda questions: [len(question) for question in questions])
    return folder


def lines_of(folder: Path, file: str = TEST) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / file).read_text("utf-8").splitlines()]


def planted_folder(clean: Path, tmp_path: Path, change: Change, number: int = 3) -> Path:
    """A copy of the clean folder with one line of test.jsonl changed."""
    folder = tmp_path / "first"
    folder.mkdir()
    for path in clean.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    rows: list[Any] = lines_of(folder)
    rows[number - 1] = change(rows[number - 1])
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / TEST).write_text(text, "utf-8")
    return folder


def test_v2_clean_data_passes(clean_folder: Path) -> None:
    found = validate_prepared(clean_folder, PARAMS, room=60)
    assert (found.suite, found.subject, found.rows, found.ok) == ("prepared", "first", 40, True)
    assert failing(found) == {}
    assert len(failing(validate_prepared(clean_folder, PARAMS, room=-1)).popitem()[1]) == 40
    without_limit = validate_prepared(clean_folder, PARAMS, room=None)
    assert len(without_limit.findings) == len(found.findings) - 1


PLANTED_PREPARED: list[tuple[str, Change, Any]] = [
    ("Every line is one JSON object.", lambda row: '{"id"', "no valid JSON: Expecting"),
    ("Every line has the fields of a prepared problem.", lambda row: without(row, "tokens"), "'tokens' is missing"),
    ("Every line has the fields of a prepared problem.", lambda row: {**row, "line": "1"}, "'line' is no int"),
    ("Every line has the fields of a prepared problem.", lambda row: {**row, "x": 1}, "unknown key 'x'"),
    ("No id is empty.", lambda row: {**row, "id": " "}, ""),
    ("No question is empty.", lambda row: {**row, "question": "\t"}, ""),
    ("No answer is empty.", lambda row: {**row, "answer": ""}, ""),
    (
        "Every problem lies in the file of its split.",
        lambda row: {**row, "split": "train"},
        "split train, of_file test",
    ),
]


@pytest.mark.parametrize(("sentence", "change", "value"), PLANTED_PREPARED)
def test_v2_a_planted_violation_is_caught(
    clean_folder: Path, tmp_path: Path, sentence: str, change: Change, value: Any
) -> None:
    folder = planted_folder(clean_folder, tmp_path, change)
    found = validate_prepared(folder, PARAMS, room=60)
    changed = change(lines_of(clean_folder)[2])
    id = changed["id"] if isinstance(changed, dict) else None
    assert failing(found) == {sentence: [(id, 3)]}
    assert [row["file"] for row in found.failing[0].failed_rows] == [TEST]
    shown = values_of(found)[sentence][0]
    assert shown == value or (isinstance(value, str) and value and shown.startswith(value))
    assert not found.ok


def test_v2_a_question_that_is_too_long_is_a_warning(clean_folder: Path, tmp_path: Path) -> None:
    """Training and evaluation leave it out."""
    found = validate_prepared(planted_folder(clean_folder, tmp_path, lambda row: {**row, "tokens": 61}), PARAMS, 60)
    assert found.ok
    assert [(f.expectation, [row["line"] for row in f.failed_rows]) for f in found.warnings] == [(FITS, [3])]


def test_v2_an_unknown_split(clean_folder: Path, tmp_path: Path) -> None:
    found = validate_prepared(planted_folder(clean_folder, tmp_path, lambda row: {**row, "split": "dev"}), PARAMS, 60)
    assert set(failing(found)) == {
        "Every split is train, validation or test.",
        "Every problem lies in the file of its split.",
    }


def test_v2_an_id_of_another_split(clean_folder: Path, tmp_path: Path) -> None:
    taken = lines_of(clean_folder, "train.jsonl")[6]["id"]
    found = validate_prepared(planted_folder(clean_folder, tmp_path, lambda row: {**row, "id": taken}), PARAMS, 60)
    assert failing(found) == {"Every id is used once, in all splits together.": [(taken, 7), (taken, 3)]}
    assert [row["file"] for row in found.failing[0].failed_rows] == ["train.jsonl", TEST]


def test_v2_a_question_of_another_split(clean_folder: Path, tmp_path: Path) -> None:
    leak = lines_of(clean_folder, "validation.jsonl")[4]
    folder = planted_folder(clean_folder, tmp_path, lambda row: {**leak, "id": row["id"], "split": "test"})
    found = validate_prepared(folder, PARAMS, 60)
    assert failing(found) == {"No question is in two splits.": [(leak["id"], 5), (lines_of(clean_folder)[2]["id"], 3)]}
    assert found.failing[0].failed_rows[1]["value"] == "also in validation, validation.jsonl:5"


def test_v2_a_reference_answer_without_the_full_reward(tmp_path: Path) -> None:
    # The exact verifier gives any answer to itself the full reward; a scorer that computes does not.
    folder = tmp_path / "legs"
    write_prepared(load_domain("reasoning_gym/leg_counting", SplitSizes(9, 9, 9), 0), folder, lambda q: [1] * len(q))
    assert failing(validate_prepared(folder, PARAMS, 60)) == {}
    rows = lines_of(folder)
    rows[1]["answer"] = "1"
    (folder / TEST).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = validate_prepared(folder, PARAMS, 60)
    assert failing(found) == {FULL: [(rows[1]["id"], 2)]}
    assert 0 <= values_of(found)[FULL][0] < 1


def test_v2_problems_with_many_solutions_have_no_reference(tmp_path: Path) -> None:
    folder = tmp_path / "graphs"
    write_prepared(load_domain("reasoning_gym/graph_color", SplitSizes(9, 9, 9), 0), folder, lambda q: [1] * len(q))
    assert failing(validate_prepared(folder, PARAMS, None)) == {}


def test_v2_a_users_problems_are_read_by_their_own_verifiers(tmp_path: Path) -> None:
    near = {"name": "numeric", "tolerance": 0.5}
    rows = [raw_row(n, verifier=[near, "regex", "multiple_choice"][n // 3 % 3], answer="B 1") for n in range(27)]
    domain = load_domain(str(write_raw(tmp_path / "a.jsonl", rows)), SplitSizes(9, 9, 9), 0)
    folder = tmp_path / "own"
    write_prepared(domain, folder, lambda questions: [1] * len(questions))
    found = validate_prepared(folder, ValidateParams(min_problems=9, max_answer_share=1), 60)
    assert failing(found) == {}
    gone = lines_of(folder)
    gone[0]["verifier"] = {"name": "python:gone"}
    (folder / TEST).write_text("".join(json.dumps(row) + "\n" for row in gone))
    assert failing(
        validate_prepared(folder, ValidateParams(min_problems=4, max_answer_share=1, max_slice_share=1), 60)
    ) == {VERIFIERS: [(gone[0]["id"], 1)]}


def test_v2_splits_that_are_too_small_or_not_as_announced(clean_folder: Path, tmp_path: Path) -> None:
    small = validate_prepared(clean_folder, ValidateParams(min_problems=11), 60)
    assert [row for finding in small.failing for row in finding.failed_rows] == [
        {"split": "validation", "value": 10},
        {"split": "test", "value": 10},
    ]
    assert [(f.expectation, f.severity) for f in small.failing] == [
        ("Every split has at least 11 problems.", "critical")
    ]
    folder = planted_folder(clean_folder, tmp_path, lambda row: "")
    found = validate_prepared(folder, PARAMS, 60)
    assert [row for finding in found.failing for row in finding.failed_rows] == [
        {"split": "test", "value": "problems 9, announced 10"}
    ]
    assert set(failing(found)) == {"Every split has as many problems as domain.json says."}


def test_v2_an_uneven_split_is_a_warning(clean_folder: Path) -> None:
    found = validate_prepared(
        clean_folder, ValidateParams(min_problems=4, max_answer_share=0.06, max_slice_share=0.5), 60
    )
    assert {f.expectation: f.severity for f in found.failing} == {
        "No answer makes up more than 6% of a split.": "warning",
        "No slice makes up more than 50% of a split.": "warning",
    }
    assert found.ok
    for finding in found.failing:
        key = "answer" if "answer" in finding.expectation else "slice"
        for row in finding.failed_rows:
            lines = lines_of(clean_folder, f"{row['split']}.jsonl")
            kinds = [line["meta"]["branch"] if key == "slice" else line["answer"] for line in lines]
            share = max(kinds.count(kind) for kind in kinds) / len(kinds)
            assert (row["value"], kinds.count(row[key]) / len(kinds)) == (round(share, 6), share)
            assert share > (0.5 if key == "slice" else 0.06)


def test_v2_no_problem_at_all_and_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    write_prepared(load_domain("lab/reverse", SplitSizes(0, 0, 0), 0), folder, lambda questions: [])
    assert set(failing(validate_prepared(folder, PARAMS, 60))) == {
        "There is at least one problem.",
        "Every split has at least 4 problems.",
    }
    with pytest.raises(DataError, match=r"nothing.domain.json: cannot be read"):
        validate_prepared(tmp_path / "nothing", PARAMS, 60)


def test_v2_every_expectation_has_its_violation(clean_folder: Path) -> None:
    known = {finding.expectation for finding in validate_prepared(clean_folder, PARAMS, 60).findings}
    elsewhere = {
        "There is at least one problem.",
        "Every id is used once, in all splits together.",
        "Every split is train, validation or test.",
        "No question is in two splits.",
        VERIFIERS,
        FULL,
        FITS,
        "Every split has at least 4 problems.",
        "Every split has as many problems as domain.json says.",
        "No answer makes up more than 50% of a split.",
        "No slice makes up more than 90% of a split.",
    }
    assert known == elsewhere | {sentence for sentence, *_ in PLANTED_PREPARED}


# -- v3: rollouts ------------------------------------------------------------------------------------------


def rollout(number: int, **more: Any) -> dict[str, Any]:
    line = {"round": 0, "channel": ("train", "fast", "eval")[number % 3], "problem_id": f"p{number % 4}", "text": "3 2"}
    scored = {"tokens": 3, "logprob": -1.75, "reward": number // 3 % 2, "feedback": "position 2"}
    return {**line, **scored, **more}


CLEAN_ROLLOUTS = [(number + 1, rollout(number)) for number in range(12)]
KNOWN = {"p0", "p1", "p2", "p3"}
A_CHANNEL, A_REWARD = "Every channel is one of train, fast, eval.", "Every reward is a finite number."
TOKENS, LOGPROB = (
    "Every rollout has the number of its answer's tokens.",
    "The log-probability of every answer is a finite number.",
)

PLANTED_ROLLOUTS: list[tuple[str, dict[str, Any], Any]] = [
    (A_CHANNEL, {"channel": "trian"}, "trian"),
    (A_CHANNEL, {"channel": None}, "null"),
    ("Every rollout names its problem.", {"problem_id": 5}, "number: 5"),
    ("Every rollout answers a problem of the domain.", {"problem_id": "p9"}, "p9"),
    (A_REWARD, {"reward": math.nan}, "nan"),
    (A_REWARD, {"reward": math.inf}, "inf"),
    (A_REWARD, {"reward": "1"}, "text: 1"),
    (A_REWARD, {"reward": True}, "true or false: true"),
    (A_REWARD, {"reward": None}, "null"),
    ("Every reward is between 0 and 1.", {"reward": 1.01}, 1.01),
    ("Every reward is between 0 and 1.", {"reward": -0.01}, -0.01),
    ("Every reward is between 0 and 1.", {"reward": 10**400}, 10**400),
    (TOKENS, {"tokens": "567"}, "text: 567"),
    (TOKENS, {"tokens": True}, "true or false: true"),
    (TOKENS, {"tokens": None}, "null"),
    ("No answer is without tokens.", {"tokens": 0}, 0),
    (LOGPROB, {"logprob": math.nan}, "nan"),
    (LOGPROB, {"logprob": -math.inf}, "-inf"),
    (LOGPROB, {"logprob": None}, "null"),
    ("No log-probability is above zero.", {"logprob": 0.0011}, 0.0011),
    ("Every feedback is a text.", {"feedback": ["x"]}, 'list: ["x"]'),
]


def test_v3_clean_rollouts_pass() -> None:
    almost = (13, rollout(0, logprob=0.0009, reward=0.25, problem_id="p3"))
    found = validate_rollouts(iter([*CLEAN_ROLLOUTS, almost]), "first", KNOWN)
    assert (found.suite, found.subject, found.rows, found.ok) == ("rollouts", "first", 13, True)
    assert failing(found) == {}


@pytest.mark.parametrize(("sentence", "change", "value"), PLANTED_ROLLOUTS)
def test_v3_a_planted_violation_is_caught(sentence: str, change: dict[str, Any], value: Any) -> None:
    planted = rollout(4, **change)
    lines = [*CLEAN_ROLLOUTS[:5], (17, planted), *((n + 20, line) for n, line in CLEAN_ROLLOUTS[6:])]
    found = validate_rollouts(lines, "first", KNOWN)
    id = planted["problem_id"] if isinstance(planted["problem_id"], str) else None
    assert failing(found) == {sentence: [(id, 17)]}
    assert values_of(found)[sentence] == [value]
    assert not found.ok


def test_v3_a_field_that_is_missing() -> None:
    found = validate_rollouts([(1, {}), *((n + 1, line) for n, line in CLEAN_ROLLOUTS)], "first", KNOWN)
    assert set(map(str, values_of(found).values())) == {"['missing']"}
    assert failing(found) == {
        sentence: [(None, 1)] for sentence in (A_CHANNEL, "Every rollout names its problem.", A_REWARD, TOKENS, LOGPROB)
    } | {"Every feedback is a text.": [(None, 1)]}


def test_v3_any_problem_will_do_where_none_are_known() -> None:
    lines = [(n, {**line, "problem_id": f"x{n}"}) for n, line in CLEAN_ROLLOUTS]
    assert failing(validate_rollouts(lines, "first")) == {}
    assert (
        len(failing(validate_rollouts(lines, "first", KNOWN))["Every rollout answers a problem of the domain."]) == 12
    )


def test_v3_no_rollouts() -> None:
    assert failing(validate_rollouts([], "first", KNOWN)) == {"There is at least one rollout.": []}


def test_v3_equal_rewards_of_a_channel_are_a_warning() -> None:
    lines = [(n, {**line, "reward": 0.5} if line["channel"] == "fast" else line) for n, line in CLEAN_ROLLOUTS]
    found = validate_rollouts(lines, "first", KNOWN)
    assert found.ok
    assert [(f.expectation, f.severity, f.failed_rows) for f in found.warnings] == [
        (
            "The rewards of a channel differ.",
            "warning",
            ({"channel": "fast", "rollouts": 4, "value": "highest 0.5, lowest 0.5"},),
        )
    ]


def test_v3_every_expectation_has_its_violation() -> None:
    known = {finding.expectation for finding in validate_rollouts(CLEAN_ROLLOUTS, "first", KNOWN).findings}
    rest = {"There is at least one rollout.", "The rewards of a channel differ."}
    assert known == rest | {sentence for sentence, *_ in PLANTED_ROLLOUTS}


def test_v3_lines_that_a_resume_made_void_are_not_looked_at(tmp_path: Path) -> None:
    def scored(reward: float) -> Rollout:
        return Rollout("train", "p1", "prompt", 0, "3", (5, 0), (-0.1, -0.2), reward, "input: 3")

    run = RunFolder.create(tmp_path / "run", {})
    run.rollouts(0, [scored(0.0), scored(1.0)])
    run.rollouts(1, [scored(7.0)])
    assert failing(validate_rollouts(rollouts_of(run.path), "run")) == {"Every reward is between 0 and 1.": [("p1", 3)]}
    run.void_from(1)
    run.rollouts(1, [scored(0.5), scored(-3.0)])
    run.close()
    assert failing(validate_rollouts(rollouts_of(run.path), "run")) == {"Every reward is between 0 and 1.": [("p1", 6)]}


# -- v4: what stops ----------------------------------------------------------------------------------------


def test_v4_a_critical_finding_stops_and_names_rows_and_page(tmp_path: Path) -> None:
    found = [validate_raw(raw_with(tmp_path, raw_row(9, answer=""))), validate_rollouts(CLEAN_ROLLOUTS, "first")]
    with pytest.raises(ValidationFailed) as error:
        require(found, tmp_path / "page.html")
    assert error.value.exit_code == 5
    assert str(error.value).splitlines() == [
        "Problem file: problems.jsonl - 1 critical, 8 rows",
        "",
        "CRITICAL  No answer is empty.  (1 of 8 rows)",
        "    id  line  value",
        "    p9  3     (empty)",
        "",
        f"Mend these rows at their source and run this again. The page: {tmp_path / 'page.html'}",
    ]


def test_v4_a_warning_is_told_and_does_not_stop(clean_folder: Path, tmp_path: Path) -> None:
    uneven = validate_prepared(
        clean_folder, ValidateParams(min_problems=4, max_answer_share=0.06, max_slice_share=0.9), 60
    )
    warnings = require([uneven, validate_rollouts(CLEAN_ROLLOUTS, "first")], tmp_path / "page.html")
    assert [finding.expectation for finding in warnings] == ["No answer makes up more than 6% of a split."]
    assert require([], tmp_path / "page.html") == ()
    assert "1 warning, 40 rows" in table(uneven)
    assert table(validate_prepared(clean_folder, PARAMS, 60)) == (
        "Prepared data: first - all 17 expectations hold, 40 rows"
    )


def test_v4_the_gravest_come_first() -> None:
    findings = tuple(Finding(name, name, False, 0, (), "") for name in ("info", "warning", "critical"))
    found = Validation("raw", "x", 1, findings)
    assert [finding.severity for finding in found.failing] == ["critical", "warning", "info"]
    assert not found.ok
    assert [finding.severity for finding in found.warnings] == ["warning", "info"]


def test_v4_an_expectation_that_cannot_be_computed_is_no_verdict() -> None:
    expectation = library().expectations.ExpectColumnValuesToBeUnique(column="nosuch", description="x")
    with pytest.raises(RuntimeError, match="the expectation 'x' could not be computed"):
        run_suite("x", [(Table({"id": ["a"], "line": [1]}, ("id", "line")), [expectation])])


# -- v5: what is read --------------------------------------------------------------------------------------

HOSTILE = '<script>alert("x")</script> & http://example.org/\n\u202e\x1b[31m'


class Tags(HTMLParser):
    """What a browser would see: its elements with their attributes, and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Tags:
    tags = Tags()
    tags.feed(page.read_text("utf-8"))
    return tags


def bad_validations(folder: Path) -> list[Validation]:
    rows = [raw_row(n, id=HOSTILE if n in (3, 5) else f"p{n}", answer="" if n == 3 else "1") for n in range(160)]
    rows[7]["question"] = 3
    raw = validate_raw(write_raw(folder / "problems.jsonl", rows))
    return [validate_rollouts(CLEAN_ROLLOUTS, "first"), raw]


def test_v5_the_same_bytes_every_time(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = bad_validations(tmp_path / name)
        write_page(found, tmp_path / name / "page.html")
        texts.append((json.dumps([v.as_dict() for v in found]), (tmp_path / name / "page.html").read_bytes()))
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0][0]
    assert not re.search(r"20\d\d-\d\d-\d\d|run_id", texts[0][0] + texts[0][1].decode())


def test_v5_findings_as_a_document(tmp_path: Path) -> None:
    found = validate_raw(raw_with(tmp_path, raw_row(9, answer="")))
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert {key: values[key] for key in values if key != "findings"} == {
        "suite": "raw",
        "subject": "problems.jsonl",
        "rows": 8,
        "ok": False,
    }
    assert len(values["findings"]) == len(found.findings) == 17
    assert [finding for finding in values["findings"] if not finding["success"]] == [
        {
            "expectation": "No answer is empty.",
            "severity": "critical",
            "success": False,
            "failed": 1,
            "failed_rows": [{"id": "p9", "line": 3, "value": ""}],
            "observed": "1 of 8 rows",
        }
    ]


def test_v5_the_page_needs_nothing_from_outside_and_escapes_values(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(bad_validations(tmp_path), page)
    seen = read(page)
    assert not {tag for tag, _ in seen.tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    addresses = [v for _, attrs in seen.tags for k, v in attrs.items() if k in ("href", "src", "srcset", "action")]
    assert addresses
    assert all(address and address.startswith("#") for address in addresses)
    assert not [k for _, attrs in seen.tags for k in attrs if k.startswith("on")]
    style = page.read_text("utf-8").split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|//", style)
    assert "prefers-color-scheme: dark" in style
    policy = [attrs["content"] for _, attrs in seen.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert '<script>alert("x")</script> & http://example.org/\\n\\u202e\\x1b[31m' in seen.text


def test_v5_the_page_shows_what_failed_first(tmp_path: Path) -> None:
    page = tmp_path / "deeper" / "page.html"
    write_page(bad_validations(tmp_path), page)
    text = re.sub(r"\s+", " ", read(page).text)
    order = ["Stopped:", "Problem file: problems.jsonl", "No answer is empty.", "What holds", "Rollout log: first"]
    places = [text.rindex(part) for part in order]
    assert places == sorted(places)
    assert "All of these hold" in text
    write_page([validate_rollouts(CLEAN_ROLLOUTS, "first")], page)
    assert "Passed: all expectations hold." in read(page).text
    write_page([Validation("raw", "x", 1, (Finding("x", "warning", False, 0, (), ""),))], page)
    assert "Passed, with something to look at." in read(page).text


def test_v5_the_table_is_narrow_and_shows_what_is_there(tmp_path: Path) -> None:
    ids = ["\x1b[31mred", "长" * 70, *(f"p{n}" for n in range(2, 60))]
    rows = [raw_row(n, id=id, answer=f"{n}" + "x" * 300, verifier="multiple_choice") for n, id in enumerate(ids)]
    text = table(validate_raw(write_raw(tmp_path / "a.jsonl", rows)))
    assert max(map(cell_len, text.splitlines())) <= 110
    assert re.search(
        r"^    \\x1b\[31mred +1 +problem '\\x1b\[31mred': 'multiple_choice' needs .*…$", text, re.MULTILINE
    )
    assert re.search(r"^    长+ ?… +2 +problem '长+ ?…$", text, re.MULTILINE)
    assert re.search(r"^    p19 +20 +problem 'p19'", text, re.MULTILINE)
    assert text.endswith("\n    ... and 40 more")


# -- v6: quiet and quick -----------------------------------------------------------------------------------


def test_v6_nothing_is_sent_and_nothing_is_printed(
    clean_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []
    listening = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if listening and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
            called.append(f"{event} {args}")

    sys.addaudithook(hook)  # stays for the life of the process, deaf after this test
    try:
        found = [validate_prepared(clean_folder, PARAMS, 60), *bad_validations(tmp_path)]
        write_page(found, tmp_path / "page.html")
        table(found[-1])
    finally:
        listening = False
    assert called == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert os.environ["DO_NOT_TRACK"]
    assert capfd.readouterr() == ("", "")
    assert not list(Path.cwd().glob("gx*"))


def test_v6_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)  # as Python does for what is not installed
    with pytest.raises(MissingDependency, match=r"great-expectations: pip install 'fast-slow-training\[data\]'"):
        validate_rollouts([], "first")


@pytest.mark.slow
def test_v6_ten_thousand_rows_take_seconds(tmp_path: Path) -> None:
    library()  # its import takes seconds of its own
    rows = [raw_row(n, answer="" if n % 3 == 0 else str(n)) for n in range(10_000)]
    path = write_raw(tmp_path / "a.jsonl", rows)
    lines = [(n, rollout(n, text="3 2 " * 40)) for n in range(10_000)]
    started = time.monotonic()
    found = validate_raw(path)
    assert found.failing[0].failed == 3334
    log = validate_rollouts(lines, "first", KNOWN)
    assert (log.rows, log.ok) == (10_000, True)
    write_page([found, log], tmp_path / "page.html")
    assert time.monotonic() - started < 10
