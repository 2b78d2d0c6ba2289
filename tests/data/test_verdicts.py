"""What validation says of verifiers. The invariants:

d1  a verifier that raises is called out once, with its exception and the number of problems
d2  so is one that gives no reference answer a reward; one that fails some is told line by line
d3  so is a mistake that every line repeats
d4  the remedy names rows where there are rows, and sizes where splits are too small
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fst.data.types import Problem, Score
from fst.data.validation import Finding, Validation, require, validate_raw
from fst.data.validation.verdicts import Check, check, told_once
from fst.errors import ValidationFailed

VERIFIERS = "Every verifier exists, takes its options and can read the reference answer."
REWARDS = "Every reference answer earns the full reward."


def found_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, verifier: str = "checks.py:score"
) -> Validation:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"p{n}", "question": f"what is {n}?", "answer": f"{n}"} for n in range(12)]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("checks.py").write_text(f"def score(question, answer, response, meta):\n    {body}\n")
    return validate_raw(f"jsonl:mine.jsonl?verifier={verifier}")


def said(found: Validation) -> dict[str, list[tuple[str, object]]]:
    return {one.expectation: [(row["id"], row["value"]) for row in one.failed_rows] for one in found.failing}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('slot ' + answer)", "checks.py:score raised KeyError: 'slot 0'"),
        ("return 0", "checks.py:score gives the problem's own reference answer reward 0"),
        (
            "return 'good'",
            "the verifier returned 'good'; it must return a reward from 0 to 1, or a pair (reward, text)",
        ),
    ],
)
def test_d1_d2_a_verifiers_own_trouble_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    found = found_in(tmp_path, monkeypatch, body)
    assert said(found) == {VERIFIERS: [("p0", f"here and for 11 more problems: {words}")]}
    assert not found.ok


def test_d2_answers_that_fail_alone_are_told_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = found_in(tmp_path, monkeypatch, "return 0.5 if answer == '7' else float(answer != '4')")
    assert said(found) == {REWARDS: [("p4", 0.0), ("p7", 0.5)]}


def test_d3_a_mistake_of_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((_, value),) = said(found_in(tmp_path, monkeypatch, "return 1", "exat"))[VERIFIERS]
    assert str(value).startswith("here and for 11 more problems: unknown verifier 'exat'; known: exact, ")


def test_d3_what_differs_is_told_apart() -> None:
    def verify(problem: Problem, response: str) -> Score:
        return Score(1.0, "")

    alone = check(Problem("p", "x", "q", "a"), verify, {"name": "mine"})
    assert alone == Check(1.0, None, "mine")
    two = [Check(0.0, None, "a"), Check(1.0, None, "a"), Check(0.0, None, "b"), Check(None, "problem 'x': no", "b")]
    assert told_once(two) == two, "one of a's is right, b has one, and a trouble by itself stays as it is"
    again = told_once([Check(None, "problem 'x': no", "b"), Check(), Check(None, "problem 'y': no", "b")])
    assert [one.trouble for one in again] == ["here and for 1 more problem: no", None, None]


def finding(**row: object) -> Finding:
    return Finding("It holds.", "critical", False, 1, (row,) if row else (), "1 of 2")


@pytest.mark.parametrize(
    ("findings", "rows", "sizes"),
    [
        ([finding(id="a", line=1, value=0)], True, False),
        ([finding(split="test", value=4)], False, True),
        ([finding(split="test", value=4), finding(id="a", line=1, value=0)], True, True),
        ([finding()], False, False),
    ],
)
def test_d4_the_remedy_fits_what_was_found(findings: list[Finding], rows: bool, sizes: bool) -> None:
    with pytest.raises(ValidationFailed) as error:
        require([Validation("raw", "x", 2, tuple(findings))], Path("page.html"))
    text = str(error.value)
    assert ("Mend these rows" in text, "Give the splits more problems" in text) == (rows, sizes)
    assert ("Write problems into the file" in text) == (not rows and not sizes)
    assert text.endswith("The page: page.html")
