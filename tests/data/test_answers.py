"""Answers in responses. The invariants:

a1  each response of model_outputs.jsonl is read, and scored, as its line says
a2  a mode reads its own form alone; where there is none, the feedback asks for the form
a3  `whole` gives the verifier the text to the letter, but for thinking
a4  the right answer alone is right in every mode
a5  the feedback shows the response as it was, and a wrong answer as it was read
a6  numbers are read as they are written, in any script and in the forms of several languages
a7  the mode is the problem's own, else the spec's, else the family's; one that there is not is an error that names it
a8  prepared problems keep the mode, and those that were prepared without one read the whole text
a9  a dataset of reasoning_gym scores a chain of thought as its answer alone, and its seed prompt asks for the tag
a10 feedback on an answer that did not end says so
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.cli.runs import Problems
from fst.config import params_from_dict
from fst.data.answers import ASKED, Part, find_answer, without_thinking
from fst.data.domains import answer_verifier, load_domain, seed_prompt, verifier_of
from fst.data.numbers import first_number, last_number, numbers
from fst.data.prepared import HEAD, load_prepared, write_prepared
from fst.data.scoring import parse_feedback
from fst.data.types import Domain, Problem, Score, SplitSizes
from fst.data.verifiers import build_verifier, domain_verifier
from fst.errors import ConfigError, UnknownDomain, VerifierError
from fst.method.rollouts import Asker
from fst.models.policy import Policy
from fst.models.sampler import Answer
from fst.types import ANSWER_MODES, AnswerMode, Prompt, mode_of_spec, plain_spec, with_answer

OUTPUTS = [json.loads(line) for line in (Path(__file__).parent / "model_outputs.jsonl").read_text("utf-8").splitlines()]
ONE = SplitSizes(1, 1, 1)


def scored(verifier: str | dict[str, Any], mode: str, want: str, response: str) -> Score:
    named = {"name": verifier} if isinstance(verifier, str) else verifier
    return domain_verifier({**named, "answer": mode})(Problem("p1", "toy", "q", want), response)


@pytest.mark.parametrize("row", OUTPUTS, ids=[f"{n}-{row['kind']}" for n, row in enumerate(OUTPUTS, start=1)])
def test_a1_a_response_is_read_and_scored(row: dict[str, Any]) -> None:
    score = scored(row["verifier"], row["mode"], row["want"], row["response"])
    assert (score.read, score.reward) == (row["read"], row["reward"]), score.feedback


def test_a1_the_outputs_are_of_every_kind() -> None:
    kinds = Counter(row["kind"] for row in OUTPUTS)
    assert len(OUTPUTS) >= 60
    assert {"chain of thought", "boxed", "tag", "markdown", "code fence", "thinking", "cut off", "refusal"} <= set(
        kinds
    )
    assert {"unit", "language", "choice", "pattern"} <= set(kinds)
    assert sum(row["reward"] == 0 for row in OUTPUTS) >= 12


FORMS = {
    "last_line": "6 * 7\n42",
    "tag": "<answer>42</answer> of course",
    "boxed": r"\boxed{42} of course",
    "marker": "Answer: 42\nOf course.",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", FORMS)
def test_a2_a_mode_reads_its_own_form(mode: AnswerMode, form: str) -> None:
    score = scored("exact", mode, "42", FORMS[form])
    assert score.reward == float(mode == form)
    if mode not in (form, "last_line"):
        assert score.feedback.endswith(f"\ndiffers: no answer found. {ASKED[mode]}")
        assert score.read is None


def test_a2_auto_prefers_the_tag_to_the_box_and_the_box_to_words() -> None:
    text = r"The answer is 1. \boxed{2} <answer>3</answer> 4"
    assert scored("exact", "auto", "9", text).read == "3"
    assert scored("exact", "auto", "9", text.replace("<answer>3</answer>", "")).read == "2"
    assert scored("exact", "auto", "9", "The answer is 1. 4").read == "1"


@given(st.text())
def test_a3_whole_is_the_text_itself(text: str) -> None:
    if without_thinking(text) == text:
        assert find_answer(text, "whole", "want", _never) == text


def _never(part: Part) -> str:
    raise AssertionError(part)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>a</think> b", "b"),
        ("a </think> b", "b"),
        ("b <think> a", "b"),
        ("<think>a</think><think>a</think>b", "b"),
        ("<Thinking>a</Thinking>b", "b"),
        ("a </think> b <think> a", "b"),
        (" b  ", " b  "),
        ("I think so", "I think so"),
    ],
)
def test_a3_thinking_is_left_out(text: str, rest: str) -> None:
    assert without_thinking(text) == rest


@given(st.text(min_size=1).filter(str.strip), st.sampled_from(ANSWER_MODES))
def test_a4_the_right_answer_alone_is_right(answer: str, mode: AnswerMode) -> None:
    assert scored("exact", mode, answer, answer).reward == 1.0


def test_a4_marks_that_belong_to_the_answer_stay() -> None:
    assert scored("exact", "auto", "**x**", "<answer>**x**</answer>").reward == 1.0
    assert scored("exact", "auto", "St. Louis.", "The answer is St. Louis.").reward == 1.0
    assert scored("exact", "auto", "x = 1\ny = 2", "So:\nAnswer:\nx = 1\ny = 2\nDone").reward == 1.0


def test_a5_feedback_shows_the_response_and_what_was_read() -> None:
    response = "Six times seven.\nThe answer is 43."
    score = scored("exact", "auto", "42", response)
    assert score.feedback == (
        f"input: q\noutput: {response}\nexpected: 42\ndiffers: position 1: 43 instead of 42 (the answer read is '43')"
    )
    right = scored("exact", "auto", "43", response)
    assert right.feedback.endswith("differs: nothing, correct")
    assert right.read == "43"
    assert scored("numeric", "auto", "42", "none").feedback.endswith("no answer found: no number in the output")


@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_a6_any_number_is_read_as_written(value: float) -> None:
    found = last_number(f"first 1 then {value!r}")
    assert found is not None
    assert found.value == value


@given(st.integers(0, 10**12), st.sampled_from(["en", "de", "fr", "de_CH", "en_IN", "ru"]))
def test_a6_a_grouped_number_is_read_in_its_locale(value: int, locale: str) -> None:
    from babel.numbers import format_decimal

    written = format_decimal(value, locale=locale)
    found = last_number(f"= {written} =", locale)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("3,4 and 1,2,3", [3.4, 1, 2, 3]),
        ("1,234 or 1.234", [1234, 1.234]),
        ("5-3 and 5 - 3 and 5 -3", [5, 3, 5, 3, 5, -3]),
        ("12/25/2024", [12, 25, 2024]),
        ("1/0 of 7", [7]),
        ("x^2 + x^{10} + 3^2", [3]),
        ("10^6", [1e6]),
        ("1e999999999, 9", [9]),
        ("v2, 3rd, 4km", [3, 4]),
        (r"-\frac{1}{2} and 3\tfrac12", [-0.5, 3.5]),
        ("1¾", [1.75]),
        ("1.5.2", [1, 5, 2]),
    ],
)
def test_a6_the_numbers_of_a_text(text: str, values: list[float]) -> None:
    assert [number.value for number in numbers(text)] == values


def test_a6_first_and_last_number() -> None:
    assert getattr(first_number("6 * 7 = 42 eggs for 3 days"), "value", None) == 42
    assert getattr(last_number("it takes 3 hours (12, 15)"), "value", None) == 15
    assert getattr(last_number("it takes 3 hours (from 12 to 15)"), "value", None) == 3
    assert first_number("none") is None
    with pytest.raises(VerifierError, match="the locale 'klingon' is unknown"):
        build_verifier("numeric", {"locale": "klingon"})


@given(st.text(alphabet="0123456789,.-+/eE^{}\\ frac%()'½²", max_size=40))
def test_a6_any_digits_are_read_or_left(text: str) -> None:
    assert all(isinstance(number.value, float) for number in numbers(text))


def test_a6_percent_is_a_share_beside_a_plain_number() -> None:
    for want, response in (("50", "50%"), ("0.5", "50%"), ("50%", "0.5"), ("50%", "50"), ("50%", "50 percent")):
        assert scored("numeric", "auto", want, response).reward == 1.0
    assert scored("numeric", "auto", "50%", "0.5%").reward == 0.0


def problem_file(folder: Path, **more: Any) -> str:
    rows = [
        {"id": split, "question": f"{split}?", "answer": "42", "split": split, **more}
        for split in ("train", "validation", "test")
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def test_a7_the_mode_is_the_problems_the_specs_or_the_familys(tmp_path: Path) -> None:
    spec = problem_file(tmp_path)
    boxed = r"I have 1 box: \boxed{42}"

    def rewards(spec: str) -> tuple[float, float]:
        domain = load_domain(spec, ONE, seed=0)
        assert domain.spec == domain.test[0].domain == spec
        return tuple(domain.verify(domain.test[0], text).reward for text in (boxed, "So:\n42"))  # type: ignore[return-value]

    assert rewards(spec) == (1.0, 1.0)
    assert rewards(f"{spec}#boxed") == (1.0, 0.0)
    assert rewards(f"{spec}#last_line") == (0.0, 1.0)
    assert rewards(f"{spec}#whole") == (0.0, 0.0)
    own = problem_file(tmp_path, verifier={"name": "exact", "answer": "last_line"})
    assert rewards(f"{own}#boxed") == (0.0, 1.0)
    assert answer_verifier(f"{own}#boxed")(Problem("", "", "q", "42"), boxed).reward == 1.0


def test_a7_families_say_how_their_answers_are_found() -> None:
    assert verifier_of("lab/reverse") == verifier_of("star_graph") == {"name": "exact"}
    assert verifier_of("lab/reverse#tag") == {"name": "exact", "answer": "tag"}
    assert verifier_of("reasoning_gym/leg_counting")["answer"] == "auto"
    assert verifier_of("hub:x?verifier=numeric")["answer"] == "auto"


def test_a7_a_domain_of_params_yaml_has_its_mode_in_its_spec() -> None:
    params = params_from_dict(
        {"domains": {"a": {"spec": "jsonl:x.jsonl", "answer": "boxed"}, "b": {"spec": "lab/reverse"}}}
    )
    assert [params.domain(name).full_spec for name in "ab"] == ["jsonl:x.jsonl#boxed", "lab/reverse"]
    with pytest.raises(ConfigError, match=r"domains\.a\.answer: 'boxd' is none of"):
        params_from_dict({"domains": {"a": {"answer": "boxd"}}})


def test_a7_the_command_line_chooses_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "p1", "question": "q", "answer": "a"}\n')
    assert Problems(data=file, answer="tag").spec() == f"jsonl:{file}#tag"
    assert Problems(domain="lab/reverse").spec() == "lab/reverse"


def test_a7_a_mode_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownDomain, match=r"answers cannot be found by 'boxd', only by .*; did you mean 'boxed'\?"):
        load_domain("lab/reverse#boxd", ONE, seed=0)
    with pytest.raises(VerifierError, match="verifier 'exact': answers cannot be found by 3"):
        build_verifier("exact", {"answer": 3})


def test_a7_a_spec_and_its_mode() -> None:
    assert with_answer("jsonl:a#b.jsonl", "tag") == with_answer("jsonl:a#b.jsonl#boxed", "tag") == "jsonl:a#b.jsonl#tag"
    assert (plain_spec("jsonl:a#b.jsonl"), mode_of_spec("jsonl:a#b.jsonl")) == ("jsonl:a#b.jsonl", "")
    assert with_answer("lab/reverse", "") == "lab/reverse"


def test_a7_a_users_function_is_given_the_whole_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "toyreads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyreads\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fst.verifiers]\nlength = toyreads:length\n")
    (tmp_path / "toyreads.py").write_text("def length(question, answer, response, meta): return len(response) / 100\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "<think>a</think>Answer: 42"
    assert scored("python:length", "auto", "42", text).reward == len("Answer: 42") / 100
    assert scored("python:length", "marker", "42", text).reward == len("42") / 100


def test_a8_prepared_problems_keep_the_mode(tmp_path: Path) -> None:
    domain = load_domain(f"{problem_file(tmp_path)}#boxed", ONE, seed=0)
    write_prepared(domain, tmp_path / "prepared", lambda questions: [1] * len(questions))
    again = load_prepared(tmp_path / "prepared")
    assert again.problems == domain.problems
    assert [again.verify(again.test[0], text).reward for text in (r"a \boxed{42}", "a\n42")] == [1.0, 0.0]


def test_a8_what_was_prepared_without_a_mode_reads_the_whole_text(tmp_path: Path) -> None:
    domain = load_domain(problem_file(tmp_path), ONE, seed=0)
    write_prepared(domain, tmp_path / "prepared", lambda questions: [1] * len(questions))
    head = json.loads((tmp_path / "prepared" / HEAD).read_text())
    assert head["verifier"].pop("answer") == "auto"
    (tmp_path / "prepared" / HEAD).write_text(json.dumps(head))
    again = load_prepared(tmp_path / "prepared")
    assert [again.verify(again.test[0], text).reward for text in ("42", "So:\n42")] == [1.0, 0.0]


def test_a9_reasoning_gym_does_not_score_by_length() -> None:
    domain = load_domain("reasoning_gym/leg_counting", ONE, seed=0)
    problem = domain.test[0]
    right, wrong = problem.answer, str(int(problem.answer) + 1)
    words = "Each dog has 4 legs. " * 20
    for form in ("{}", "<answer>{}</answer>", "<answer>{} legs</answer>", r"\boxed{{{}}}", "So it is {} legs in all."):
        assert domain.verify(problem, words + "\n" + form.format(right)).reward == 1.0
        assert domain.verify(problem, words + "\n" + form.format(wrong)).reward < 0.05
    unread = load_domain("reasoning_gym/leg_counting#tag", ONE, seed=0).verify(problem, f"So it is {right}.")
    assert unread.reward == 0.0
    assert "differs: no answer found. Give the final answer between <answer> and </answer>." in unread.feedback


def test_a9_the_seed_prompt_asks_for_the_form_that_is_read() -> None:
    def seed(text: str, spec: str) -> str:
        return seed_prompt(
            text, Domain(spec, (Problem("p1", spec, "q", "1"),), (), (), verify=lambda *_: Score(0.0, ""))
        )

    asked = f"solve the task\n{ASKED['tag']}"
    assert seed("solve the task", "reasoning_gym/leg_counting") == asked
    assert seed(asked, "reasoning_gym/leg_counting") == asked
    assert seed("solve the task", "reasoning_gym/leg_counting#boxed") == f"solve the task\n{ASKED['boxed']}"
    assert seed("Use \\boxed{}", "jsonl:a.jsonl#boxed") == "Use \\boxed{}"
    for spec in ("lab/reverse", "star_graph", "jsonl:a.jsonl", "lab/reverse#auto", "reasoning_gym/leg_counting#whole"):
        assert seed("solve the task", spec) == "solve the task"


@dataclass
class Toy:
    """A policy of which a rollout asks only when an answer has ended."""

    max_new_tokens: int = 3
    end_ids: tuple[int, ...] = (9,)
    cut = Policy.cut


@pytest.mark.parametrize(
    ("tokens", "text", "told"),
    [((1, 2, 3), "4", True), ((1, 2, 9), "4", False), ((1, 9), "4", False), ((1, 2, 3), "5", False)],
)
def test_a10_feedback_says_that_an_answer_was_cut_off(tokens: tuple[int, ...], text: str, told: bool) -> None:
    asker = Asker(cast(Policy, Toy()), domain_verifier({"name": "exact"}), "train", weights=0)
    rollout = asker.score(Prompt("p"), Problem("p1", "toy", "q", "5"), Answer(tokens, (0.0,) * len(tokens), text))
    line = rollout.feedback.rpartition("differs: ")[2]
    assert ("; the output was cut off at 3 tokens" in line) == told
    assert parse_feedback(rollout.feedback) == ("q", "5")
    assert rollout.read == text
