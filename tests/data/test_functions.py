"""Functions as verifiers (fst/data/functions.py). The invariants:

f1  a function with a parameter `completions` is called as TRL calls its reward functions; any other as before
f2  it is given the columns that it names, from the answer and the problem's meta, and a missing one is an error
f3  what it reports by log_extra and log_metric is feedback; a None counts as 0; what it raises is a score of 0
f4  it is named in a file or in a module; a module's function must be a reward function, and its file's hash is known
f5  a reward function of TRL itself scores a domain
f6  a gateway runs no function of a module for a release
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fst.data.code import code_sha256, load_code, names_code, names_file
from fst.data.domains import load_domain
from fst.data.functions import verifier_of_function
from fst.data.scored_by import verifier_facts
from fst.data.scoring import remark
from fst.data.types import Problem, Score, SplitSizes
from fst.data.verifiers import EACH, build_verifier
from fst.errors import VerifierError
from fst.files import file_sha256
from fst.serving.feedback import verifier_here

ASKED = Problem("p1", "d", "6 * 7?", "42", {"unit": "m", "most": 5}, feedback="Multiply.")
ACCURACY = "trl.rewards:accuracy_reward"


def score(function: Callable[..., Any], response: str = "42") -> Score:
    return verifier_of_function(function)(ASKED, response)


def test_f1_a_conversation_as_trl_gives_it() -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        seen.update(columns, prompts=prompts, completions=completions)
        return [0.25]

    said = "input: 6 * 7?\noutput: x\nexpected: 42\nhint: Multiply.\ndiffers: reward 0.25 of 1"
    assert score(reward, "x") == Score(0.25, said, "x")
    assert seen["prompts"] == [[{"role": "user", "content": "6 * 7?"}]]
    assert seen["completions"] == [[{"role": "assistant", "content": "x"}]]
    assert (seen["answer"], seen["solution"], seen["unit"]) == (["42"], ["42"], ["m"])


def test_f1_texts_where_they_are_annotated() -> None:
    def reward(completions: list[str], prompts: list[str]) -> list[float]:
        assert prompts == ["6 * 7?"]
        return [float(len(text) == 3) for text in completions]

    assert score(reward, "abc").reward == 1.0
    assert score(reward, "abcd").reward == 0.0


def test_f1_the_other_contract_is_as_it_was() -> None:
    assert score(lambda question, answer, response, meta: (0.5, meta["unit"])).feedback.endswith("differs: m")
    assert remark(score(lambda *given: given[1] == given[2]).feedback) == "nothing, correct"


def test_f2_only_what_is_named() -> None:
    def reward(completions: list[Any], solution: list[str], most: list[int], other: int = 3) -> list[float]:
        return [float(solution == ["42"] and most == [5] and other == 3)]

    assert score(reward).reward == 1.0


def test_f2_a_column_that_is_not_there() -> None:
    def reward(completions: list[Any], rubric: list[str]) -> list[float]:
        return [1.0]

    with pytest.raises(VerifierError, match=r"'p1': reward asks for rubric; give the problem that key in its \"meta\""):
        score(reward)


def test_f3_what_is_logged_is_feedback() -> None:
    def reward(completions: list[Any], log_extra: Any, log_metric: Any) -> list[float | None]:
        log_extra("parsed", ["41"])
        log_metric("near", 0.9)
        return [None]

    assert remark(score(reward).feedback) == "reward 0 of 1; this example does not count; parsed: 41; near: 0.9"
    assert score(reward).reward == 0.0


@pytest.mark.parametrize("returned", [[1.5], [-1.0], ["good"], [0.5, 0.5], 0.5, None])
def test_f3_what_is_no_score_is_an_error(returned: Any) -> None:
    def reward(completions: list[Any]) -> Any:
        return returned

    with pytest.raises(VerifierError, match="must return"):
        score(reward)


def test_f3_what_is_raised_scores_0() -> None:
    def reward(completions: list[Any]) -> list[float]:
        raise KeyError("x")

    assert score(reward).reward == 0.0
    assert remark(score(reward).feedback) == "the verifier failed: KeyError: 'x'"

    async def later(completions: list[Any]) -> list[float]:
        return [1.0]

    with pytest.raises(VerifierError, match="later: an async function cannot be a verifier"):
        verifier_of_function(later)


def test_f4_names() -> None:
    names = (
        ACCURACY,
        "checks.py:f",
        "d/checks.py:f",
        "python:near",
        "exact",
        "trl.rewards",
        "a b:c",
        EACH,
    )
    assert [name for name in names if names_code(name)] == [ACCURACY, "checks.py:f", "d/checks.py:f"]
    assert [name for name in names if names_file(name)] == ["checks.py:f", "d/checks.py:f"]


def test_f4_the_hash_is_of_the_file_that_defines_it() -> None:
    import trl.rewards.accuracy_rewards as defines

    assert code_sha256(ACCURACY) == file_sha256(Path(defines.__file__))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("os:system", "is no reward function"),
        ("json:loads", "is no reward function"),
        ("trl.rewards:nothing", "is no reward function"),
        ("no_such_package.rewards:f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_f4_a_name_does_not_call_whatever_is_installed(name: str, words: str) -> None:
    with pytest.raises(VerifierError, match=words):
        load_code(name)


def test_f4_data_names_no_module() -> None:
    with pytest.raises(VerifierError, match="a problem may not name a file of code"):
        build_verifier(ACCURACY, {})


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"p{n}", "question": f"{n} + {n}?", "answer": rf"${2 * n}$"} for n in range(12)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("checks.py").write_text("from trl.rewards import think_format_reward as tidy\n", encoding="utf-8")
    return "jsonl:sums.jsonl?verifier="


def test_f5_trl_s_own(sums: str) -> None:
    domain = load_domain(sums + ACCURACY, SplitSizes(4, 2, 2), 0)
    problem = domain.train[0]
    right, wrong = domain.verify(problem, rf"\boxed{{{problem.answer[1:-1]}}}"), domain.verify(problem, r"\boxed{99}")
    assert (right.reward, wrong.reward) == (1.0, 0.0)
    assert "answer_parsed: [99" in remark(wrong.feedback) or "99" in remark(wrong.feedback)
    assert verifier_facts(domain) == {"name": ACCURACY, "sha256": code_sha256(ACCURACY)}


def test_f5_in_a_file(sums: str) -> None:
    domain = load_domain(sums + "checks.py:tidy", SplitSizes(4, 2, 2), 0)
    assert domain.verify(domain.train[0], "<think>\nso\n</think>\n4").reward == 1.0
    assert domain.verify(domain.train[0], "4").reward == 0.0
    whole = load_domain(sums + "checks.py:tidy#whole", SplitSizes(4, 2, 2), 0)
    assert whole.verify(whole.train[0], "<think>\nso\n</think>\n4").reward == 0.0, "thinking is left out as it asks"


def test_f6_a_gateway_does_not_run_it() -> None:
    facts = {"spec": "lab/reverse", "verifier": {"name": ACCURACY, "sha256": code_sha256(ACCURACY)}}
    assert verifier_here(facts) is None
