"""The verifier `choice`. The invariants:

c1  a response is read as the one label that it settles on, in all of it or in its last line, case and punctuation aside
c2  a response that names two labels earns nothing, and neither does one that names none; the feedback says which it was
c3  of labels that begin alike the longest counts
c4  labels that cannot be told apart, and answers that are no label, are errors
c5  without labels they are the file's answers, unless a single problem has one of them
c6  the seed prompt names the labels if all problems have the same ones, unless its text names every one already
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.data.domains import load_domain, seed_prompt
from fst.data.labels import labels_of
from fst.data.types import Domain, Problem, Score, SplitSizes
from fst.data.verifiers import build_verifier
from fst.errors import DataError, VerifierError

LABELS = ["billing", "bug", "login", "Password reset"]


def score(response: str, answer: str = "billing", labels: list[str] = LABELS) -> Score:
    return build_verifier("choice", {"labels": labels})(Problem("p1", "toy", "q", answer), response)


def differs(response: str, answer: str = "billing") -> str:
    return score(response, answer).feedback.rpartition("\ndiffers: ")[2]


@pytest.mark.parametrize(
    ("response", "label"),
    [
        ("billing", "billing"),
        ("  Billing.\n", "billing"),
        ("**BILLING**", "billing"),
        ("The label is 'login'!", "login"),
        ("Category: Bug", "bug"),
        ("password_reset", "Password reset"),
        ("I would say:\n\n- Password-Reset", "Password reset"),
        ("It could be a bug or billing.\nBut the answer is login", "login"),
        ("billing, billing and again billing", "billing"),
        ("bug\n\n", "bug"),
    ],
)
def test_c1_the_label_that_a_response_settles_on(response: str, label: str) -> None:
    assert {name: score(response, name).reward for name in LABELS} == {name: float(name == label) for name in LABELS}


@pytest.mark.parametrize(
    ("response", "line"),
    [
        ("bug", "bug instead of billing"),
        ("billing or bug", "the output names billing and bug; it must settle on one"),
        ("billing\nbug or login", "the output names billing and bug and login; it must settle on one"),
        ("", "no answer found: no label in the output; the labels are billing, bug, login, Password reset"),
        ("\n \n", "no answer found: no label in the output; the labels are billing, bug, login, Password reset"),
        (
            "bills, debugging",
            "no answer found: no label in the output; the labels are billing, bug, login, Password reset",
        ),
        ("billing", "nothing, correct"),
    ],
)
def test_c2_what_is_wrong_is_said(response: str, line: str) -> None:
    assert differs(response) == line
    assert score(response).reward == float(line == "nothing, correct")


@given(st.lists(st.sampled_from([*LABELS, "hm", "no", ",", "\n"]), max_size=8), st.sampled_from(LABELS))
def test_c2_a_line_with_two_labels_never_earns_anything(words: list[str], answer: str) -> None:
    last = f"{answer} or {next(name for name in LABELS if name != answer)}"
    assert score("\n".join([" ".join(words), last]), answer).reward == 0.0


def test_c3_the_longest_label_counts() -> None:
    labels = ["refund", "refund request", "request"]
    assert [score("A refund request.", name, labels).reward for name in labels] == [0.0, 1.0, 0.0]
    assert [score("A refund; requested.", name, labels).reward for name in labels] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "'choice' has no labels; name them"),
        (["a", "A."], "the labels 'a' and 'A.' read the same; keep one"),
        (["a", "+"], "the label '+' has no letter or digit"),
    ],
)
def test_c4_labels_that_cannot_be_told_apart(labels: list[str], words: str) -> None:
    with pytest.raises(VerifierError) as error:
        build_verifier("choice", {"labels": labels})
    assert words in str(error.value)


def test_c4_an_answer_that_is_no_label_and_an_option_that_is_no_list() -> None:
    with pytest.raises(
        VerifierError, match="problem 'p1': 'spam' is no label of 'choice'; its labels are billing, bug"
    ):
        score("bug", "spam")
    for wrong in ("billing", ["a", 1]):
        with pytest.raises(VerifierError, match="option 'labels' must be a list of texts"):
            build_verifier("choice", {"labels": wrong})


def row(number: int, answer: str, **more: Any) -> str:
    return json.dumps({"id": f"p{number}", "question": f"ticket {number}", "answer": answer, **more})


def file(tmp_path: Path, rows: list[str]) -> str:
    (tmp_path / "a.jsonl").write_text("\n".join(rows) + "\n")
    return f"jsonl:{tmp_path / 'a.jsonl'}"


def test_c5_the_labels_of_a_file_are_its_answers(tmp_path: Path) -> None:
    answers = ["bug", "login", "Billing", "billing ", "bug", "login"] * 2
    spec = file(tmp_path, [row(n, answer) for n, answer in enumerate(answers)])
    domain = load_domain(f"{spec}?verifier=choice", SplitSizes(4, 4, 4), 0)
    assert {json.dumps(problem.verifier) for problem in domain.problems} == {
        '{"name": "choice", "labels": ["Billing", "bug", "login"]}'
    }
    problem = next(problem for problem in domain.problems if problem.answer == "billing ")
    assert [domain.verify(problem, said).reward for said in ("BILLING!", "bug", "billing or bug")] == [1.0, 0.0, 0.0]


def test_c5_a_lines_own_verifier_has_no_part_in_them(tmp_path: Path) -> None:
    rows = [row(n, answer) for n, answer in enumerate(["a", "b"] * 4)]
    rows += [row(8, "7", verifier="numeric"), row(9, "x", verifier={"name": "choice", "labels": ["x", "y"]})]
    domain = load_domain(f"{file(tmp_path, rows)}?verifier=choice", SplitSizes(4, 3, 3), 0)
    named = {problem.id: problem.verifier for problem in domain.problems}
    assert named["p0"] == {"name": "choice", "labels": ["a", "b"]}
    assert (named["p8"], named["p9"]) == ({"name": "numeric"}, {"name": "choice", "labels": ["x", "y"]})


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["a", "a", "b", "b", "only here"], "the answer 'only here' is there once only"),
        ([str(n) for n in range(51)] * 2, "51 different answers are too many"),
    ],
)
def test_c5_answers_that_are_no_labels_are_told_once(tmp_path: Path, answers: list[str], words: str) -> None:
    with pytest.raises(VerifierError, match=words):
        labels_of(answers)
    spec = file(tmp_path, [row(n, answer) for n, answer in enumerate(answers)])
    with pytest.raises(DataError) as error:
        load_domain(f"{spec}?verifier=choice", SplitSizes(1, 1, 1), 0)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    named = json.dumps({"name": "choice", "labels": sorted(set(answers))})
    assert load_domain(f"{spec}?verifier={named}", SplitSizes(1, 1, 1), 0).train[0].verifier == json.loads(named)


def test_c6_the_seed_prompt_names_the_labels(tmp_path: Path) -> None:
    rows = [row(n, answer) for n, answer in enumerate(["bug", "login", "Password reset"] * 2)]
    rows += [row(8, "login", verifier={"name": "choice", "labels": ["bug", "login", "Password reset"]})]
    domain = load_domain(f"{file(tmp_path, rows)}?verifier=choice#tag", SplitSizes(3, 2, 2), 0)
    tag = "Give the final answer between <answer> and </answer>."
    labels = "Answer with one of: Password reset, bug, login."
    assert seed_prompt("Sort the tickets.", domain) == f"Sort the tickets.\n{labels}\n{tag}"
    assert seed_prompt("Say bug or login.", domain) == f"Say bug or login.\n{labels}\n{tag}"
    assert seed_prompt("", domain) == f"{labels}\n{tag}"
    for named in ("Say BUG, login or password-reset.", labels):
        assert seed_prompt(named, domain) == f"{named}\n{tag}"


def test_c6_it_names_none_where_problems_differ(tmp_path: Path) -> None:
    rows = [row(n, answer) for n, answer in enumerate(["a", "b"] * 4)]
    for number, other in enumerate(["numeric", {"name": "choice", "labels": ["7", "8"]}]):
        (folder := tmp_path / str(number)).mkdir()
        spec = f"{file(folder, [*rows, row(8, '7', verifier=other)])}?verifier=choice"
        assert seed_prompt("solve the task", load_domain(spec, SplitSizes(4, 3, 2), 0)) == "solve the task"


def test_c6_the_labels_of_a_dataset_of_the_hub_are_named() -> None:
    """A hub domain has one verifier for all problems, and its labels are known once they are loaded."""
    problems = tuple(Problem(f"p{n}", "hub:x", "q", answer) for n, answer in enumerate(["yes", "no"] * 2))
    named = {"name": "choice", "labels": ["no", "yes"]}
    domain = Domain(
        "hub:x?question=q&answer=a&verifier=choice",
        problems,
        (),
        (),
        build_verifier("choice", {"labels": ["no", "yes"]}),
        named,
    )
    assert seed_prompt("solve the task", domain) == "solve the task\nAnswer with one of: no, yes."
