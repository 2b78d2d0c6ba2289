"""Live traffic is scored by the domain's own verifier. F1 a release carries the verifier of a dataset whose scorer
needs the answer alone, and live answers are scored by it; F2 so are the problems that an adaptation makes of the
traffic; F3 a scorer that reads more than the answer is not guessed at: equality decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fst.data.domains import load_domain
from fst.data.families.reasoning_gym import answer_suffices
from fst.data.scored_by import text_of, verifier_facts
from fst.data.types import Problem, SplitSizes
from fst.serving.feedback import Remembered, reward_of
from fst.types import scored_with

KNIGHTS = {"name": "reasoning_gym", "dataset": "knights_knaves"}


def served(dataset: str) -> tuple[dict[str, Any], Problem]:
    """The entry of a dataset in a release's manifest, and a problem of it."""
    domain = load_domain(f"reasoning_gym/{dataset}", SplitSizes(3, 1, 1), 0)
    facts = verifier_facts(domain)
    return {"spec": domain.spec, **({"verifier": facts} if facts else {})}, domain.train[0]


def turned(answer: str) -> str:
    """The same statement about two people, the second of them first."""
    first, second = answer.rstrip(".").split(", and ")
    return f"{second}, and {first}."


def live(entry: dict[str, Any], problem: Problem, response: str) -> float | None:
    remembered = Remembered("t", "mine", problem.question, response, "r")
    return reward_of(remembered, problem.answer, {"domains": {"mine": entry}})


def test_f1_live_answers_are_scored_by_the_datasets_scorer() -> None:
    entry, problem = served("knights_knaves")
    assert entry["verifier"] == KNIGHTS
    assert turned(problem.answer) != problem.answer
    assert live(entry, problem, turned(problem.answer)) == 1.0
    assert live({"spec": "lab/reverse"}, problem, turned(problem.answer)) == 0.0, "by equality"


def test_f2_an_adaptation_scores_as_live_traffic_was(tmp_path: Path) -> None:
    _, problem = served("knights_knaves")
    rows = [{"id": f"p{i}", "question": f"{problem.question} ({i})", "answer": problem.answer} for i in range(4)]
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    spec = scored_with(f"jsonl:{tmp_path / 'p.jsonl'}", text_of(KNIGHTS))
    domain = load_domain(spec, SplitSizes(2, 1, 1), 0)
    assert domain.verify(domain.train[0], turned(problem.answer)).reward == 1.0
    assert verifier_facts(domain) == KNIGHTS, "and so the next release carries it too"


@pytest.mark.parametrize("dataset", ["graph_color", "word_sorting"])
def test_f3_a_scorer_that_reads_more_leaves_it_to_equality(dataset: str) -> None:
    entry, problem = served(dataset)
    assert "verifier" not in entry
    assert live(entry, problem, problem.answer) == 1.0
    assert not answer_suffices(dataset)
    assert not answer_suffices("no such dataset")
