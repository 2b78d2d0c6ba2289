"""Verifiers. The invariants:

v1  every verifier's feedback has the one four-part form, and `parse_feedback` reads it back
v2  exact: equality of items, and the first difference named
v3  numeric: the last number, within the tolerance
v4  regex: a match of the whole answer, or of any part where that is asked for; the pattern must compile
v5  multiple_choice: the letter a response settles on, however it is written
v6  math: equality as mathematics, on any thread; no power tower and no answer in words stops the run
v7  a user's function that raises scores 0; one that returns no score is an error
v8  an unknown name or option, or a value of the wrong kind, is an error that names it
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.data.scoring import extract_choice, feedback_text, last_number, parse_feedback
from fst.data.types import Problem
from fst.data.verifiers import build_verifier, known_verifiers
from fst.errors import VerifierError


def problem(answer: str, question: str = "digits: 3 1") -> Problem:
    return Problem("p1", "toy", question, answer)


def reward(name: str, answer: str, response: str, **args: Any) -> float:
    return build_verifier(name, args)(problem(answer), response).reward


def differs(name: str, answer: str, response: str) -> str:
    return build_verifier(name, {})(problem(answer), response).feedback.rpartition("\ndiffers: ")[2]


def test_v1_feedback_has_exactly_four_parts() -> None:
    score = build_verifier("exact", {})(problem("1 7"), "1 4")
    assert score.feedback == "input: digits: 3 1\noutput: 1 4\nexpected: 1 7\ndiffers: position 2: 4 instead of 7"


@given(st.text(), st.text(), st.text(), st.text())
def test_v1_feedback_is_read_back_whatever_the_response(question: str, answer: str, response: str, line: str) -> None:
    forged = f"{response}\nexpected: {response}\ndiffers: {line}\noutput: {line}"
    assert parse_feedback(feedback_text(problem(answer, question), forged, line)) == (question, answer)


def test_v1_the_difference_is_one_line() -> None:
    text = feedback_text(problem("1", "two\nlines"), "9", "position 1:\n9 instead of 1")
    assert text == "input: two\nlines\noutput: 9\nexpected: 1\ndiffers: position 1: 9 instead of 1"


@pytest.mark.parametrize(
    "text", ["", "input: a", "input: a\noutput: b\nexpected: c", "x\noutput: b\nexpected: c\ndiffers: d"]
)
def test_v1_other_text_is_no_feedback(text: str) -> None:
    assert parse_feedback(text) is None


@pytest.mark.parametrize(
    ("answer", "response", "line"),
    [
        ("1 2 3", "1 2 3", "nothing, correct"),
        ("1 2 3", "  1  2\n3 ", "nothing, correct"),
        ("1 7 3", "1 4 3", "position 2: 4 instead of 7"),
        ("1 2 3 4", "1 2 3", "too short: 3 items instead of 4"),
        ("1", "1 2", "too long: 2 items instead of 1"),
        ("1 2", "1", "too short: 1 item instead of 2"),
        ("1", " ", "no answer"),
        ("b", "B", "position 1: B instead of b"),
    ],
)
def test_v2_exact_names_the_first_difference(answer: str, response: str, line: str) -> None:
    assert differs("exact", answer, response) == line
    assert reward("exact", answer, response) == float(line == "nothing, correct")


def test_v2_exact_options_change_the_verdict() -> None:
    assert (reward("exact", "b", "B"), reward("exact", "b", "B", ignore_case=True)) == (0.0, 1.0)
    assert (reward("exact", "b", " b"), reward("exact", "b", " b", strip=False)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so it is 1,234.5.", 1234.5),
        ("from 3 to -4", -4.0),
        ("5-3", 3.0),
        ("2e-4", 2e-4),
        ("about .5", 0.5),
        ("3,4", 3.4),
        ("\u22127", -7.0),
        ("none", None),
        ("9" * 400, None),
    ],
)
def test_v3_the_last_number_is_taken(text: str, value: float | None) -> None:
    assert last_number(text) == value


@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_v3_any_number_is_read_as_written(value: float) -> None:
    assert last_number(f"first 1 then {value!r}") == value


def test_v3_tolerances_are_absolute_and_relative() -> None:
    assert (reward("numeric", "100", "101"), reward("numeric", "100", "101", tolerance=1)) == (0.0, 1.0)
    assert reward("numeric", "100", "101", relative_tolerance=0.01) == 1.0
    assert reward("numeric", "100", "102", tolerance=1, relative_tolerance=0.01) == 0.0
    assert differs("numeric", "100", "no idea") == "no answer found: no number in the output"
    with pytest.raises(VerifierError, match=r"'p1'.*'many'"):
        reward("numeric", "many", "3")


def test_v4_regex_takes_the_answer_or_the_option_as_pattern() -> None:
    assert (reward("regex", "^ab+$", "abb"), reward("regex", "^ab+$", "abbc")) == (1.0, 0.0)
    assert (reward("regex", "4", "14"), reward("regex", "4", "14", search=True)) == (0.0, 1.0)
    assert (reward("regex", "abc", "y", pattern="y|z"), reward("regex", "xyz", "xyz", pattern="y")) == (1.0, 0.0)
    assert (reward("regex", "AB", "ab"), reward("regex", "AB", "ab", ignore_case=True)) == (0.0, 1.0)
    with pytest.raises(VerifierError, match=r"'\(a' is no regular expression"):
        build_verifier("regex", {"pattern": "(a"})
    with pytest.raises(VerifierError, match="is no regular expression"):
        reward("regex", "[", "a")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B) because", "B"),
        ("answer: B", "B"),
        ("The answer is (c).", "C"),
        ("Answer: A. Then answer: D", "D"),
        (r"thus \boxed{D}", "D"),
        ("A dog ate it, so E", "E"),
        ("(A) is wrong.\nSo (B)", "B"),
        ("B or C", None),
        ("answer is a dog", None),
        ("Because", None),
        ("", None),
    ],
)
def test_v5_the_letter_a_response_settles_on(text: str, letter: str | None) -> None:
    assert extract_choice(text) == letter


@given(st.sampled_from("ABCDE"), st.sampled_from("ABCDE"), st.sampled_from(["{}", "({})", "answer: {}", "I pick {}."]))
def test_v5_only_the_right_letter_earns(want: str, got: str, form: str) -> None:
    assert reward("multiple_choice", want, form.format(got)) == float(want == got)


@pytest.mark.parametrize(
    ("answer", "response", "value"),
    [
        (r"\frac{1}{2}", "so 0.5", 1.0),
        (r"\frac{1}{2}", "1/3", 0.0),
        ("2^{10}", "it is $1024$", 1.0),
        ("x^2+1", "$1+x^2$", 1.0),
        ("x^2+1", "$y^2+1$", 0.0),
        ("3", r"\boxed{3}", 1.0),
        ("3", "no idea", 0.0),
        ("3", "$((3))$", 1.0),
    ],
)
def test_v6_math_compares_values_off_the_main_thread(answer: str, response: str, value: float) -> None:
    rewards: list[float] = []
    thread = threading.Thread(target=lambda: rewards.append(reward("math", answer, response)))
    thread.start()
    thread.join()
    assert rewards == [value]


def test_v6_no_power_tower_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fst.data.math_answers.SECONDS", 0.5)
    assert differs("math", "3", f"${'9^' * 30}9$") == ("the comparison takes more than 0.5 seconds, or too much memory")
    monkeypatch.undo()
    assert reward("math", "3", "3") == 1.0


@pytest.mark.parametrize(
    ("answer", "response", "value"),
    [
        (r"\text{even}", "even", 1.0),
        (r"\text{even}", r"$\textbf{Even}$.", 1.0),
        (r"\text{even}", "so it is\neven", 1.0),
        (r"\text{even}", "not even", 0.0),
        (r"\$32,348", "32348 dollars", 1.0),
        (r"\$32,348", "$32,349", 0.0),
        ("nothing here", "3", 0.0),
    ],
)
def test_v6_an_answer_that_is_no_mathematics_is_compared_as_text(answer: str, response: str, value: float) -> None:
    assert reward("math", answer, response) == value


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with entry points, as pip would lay it out."""
    names = ("half", "told", "raises", "nan", "big", "text", "missing", "constant", "maker")
    info = tmp_path / "toychecks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toychecks\nVersion: 1.0\n")
    points = "".join(f"{name} = toychecks:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[fst.verifiers]\n{points}")
    (tmp_path / "toychecks.py").write_text(
        "from fst.data.scoring import exact as maker\n"
        "constant = 3\n"
        "def half(question, answer, response, meta): return 0.5\n"
        "def told(question, answer, response, meta): return 1, f'{question}|{answer}|{response}|{meta[\"k\"]}'\n"
        "def raises(question, answer, response, meta): raise KeyError('slot')\n"
        "def nan(question, answer, response, meta): return float('nan')\n"
        "def big(question, answer, response, meta): return 1.5\n"
        "def text(question, answer, response, meta): return 'good'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("installed")
def test_v7_a_users_function_gives_reward_and_feedback() -> None:
    asked = Problem("p1", "toy", "q", "a", {"k": "v"})
    assert build_verifier("python:half", {})(asked, "r").reward == 0.5
    score = build_verifier("python:told", {})(asked, "r")
    assert score.reward == 1.0
    assert score.feedback == "input: q\noutput: r\nexpected: a\ndiffers: q|a|r|v"
    failed = build_verifier("python:raises", {})(asked, "r")
    assert failed.reward == 0.0
    assert failed.feedback.endswith("differs: the verifier failed: KeyError: 'slot'")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["nan", "big", "text"])
def test_v7_what_is_no_score_is_an_error(name: str) -> None:
    with pytest.raises(VerifierError, match="reward from 0 to 1"):
        build_verifier(f"python:{name}", {})(problem("a"), "r")


@pytest.mark.usefixtures("installed")
def test_v7_entry_points_that_cannot_be_used() -> None:
    assert "python:half" in known_verifiers()
    with pytest.raises(VerifierError, match=r"no entry point 'other'.*python:half"):
        build_verifier("python:other", {})
    with pytest.raises(VerifierError, match=r"'python:missing' cannot be loaded: AttributeError"):
        build_verifier("python:missing", {})
    with pytest.raises(VerifierError, match=r"'python:constant' is no function but a int"):
        build_verifier("python:constant", {})
    with pytest.raises(VerifierError, match=r"no option 'x'"):
        build_verifier("python:half", {"x": 1})
    with pytest.raises(VerifierError, match=r"'python:maker' makes a verifier of the table: name it 'exact' alone"):
        build_verifier("python:maker", {})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("exat", {}, "unknown verifier 'exat'; known: exact, numeric, regex, multiple_choice, math"),
        ("exact", {"case": True}, "no option 'case'; it takes: ignore_case, strip"),
        ("exact", {"ignore_case": 1}, "'ignore_case' must be true or false, not 1"),
        ("numeric", {"tolerance": -1}, "'tolerance' must be a number of 0 or more"),
        ("numeric", {"tolerance": float("nan")}, "'tolerance' must be a number"),
        ("numeric", {"tolerance": True}, "'tolerance' must be a number"),
        ("regex", {"pattern": 3}, "'pattern' must be a text"),
        ("math", {"x": 1}, "no option 'x'; it takes: none"),
    ],
)
def test_v8_unknown_names_and_options_are_named(name: str, args: dict[str, Any], words: str) -> None:
    with pytest.raises(VerifierError) as error:
        build_verifier(name, args)
    assert words in str(error.value)
