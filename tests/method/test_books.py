"""The books, on a real run folder. A1 every rollout is in the budget and on the record once, under its round; A2 the
limit is on learning rollouts; A3 a round's line says what happened in it; A4 prompts are on the record with their mean
score; A5 evaluations and the end carry the budget and the time; A6 a round that is not
complete has no line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fst.method.evaluation import Evaluation
from fst.method.fast.round import FastRound, Screening
from fst.method.run.books import Books
from fst.method.slow.weights import StepResult
from fst.runs.progress import Progress
from fst.runs.records import RunFolder, rollouts_of
from fst.types import Population, Prompt, Purpose, Rollout

SEED, BETTER = Prompt("seed"), Prompt("better", (Prompt("seed").id,), "reflection", 1)
POPULATION = Population((BETTER, SEED), {BETTER.id: 0.75, SEED.id: 0.5})


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(RunFolder.create(tmp_path / "run", {}), Progress(4, 2, "fst", "toy", quiet=True), limit=10)
    yield books
    books.close()


def rollouts(purpose: Purpose, count: int) -> list[Rollout]:
    return [Rollout(purpose, f"p{i}", SEED.id, 0, "text", (5, 2), (-0.5, -0.25), 1.0, "right") for i in range(count)]


def step(reward: float) -> StepResult:
    return StepResult(reward, groups=2, kept_groups=1, loss=0.25, grad_norm=2.0, seconds=0.12345)


def fast(**usage: Any) -> FastRound:
    scores = {BETTER.id: {"p0": 1.0, "p1": 0.5}, SEED.id: {"p0": 0.5, "p1": 0.5}}
    unscored = Prompt("refused", (SEED.id,), "reflection", 1)
    known = {p.id: p for p in (SEED, BETTER, unscored)}
    reflections = {BETTER.id: {"feedback": "p1 is wrong"}}
    return FastRound(POPULATION, scores, known, reflections, 4, Screening(proposals=3), usage or None, 2, 1)


def last(books: Books, kind: str) -> dict[str, Any]:
    return [event for event in books.events() if event["kind"] == kind][-1]


def test_a1_a_rollout_counts_once_under_its_round(books: Books) -> None:
    books.count("fast", rollouts("fast", 2), 0)
    books.count("eval", rollouts("eval", 3), -1)
    books.step(1, 1, step(0.5), rollouts("train", 4))
    assert books.budget.as_dict() == {"train": 4, "fast": 2, "eval": 3}
    recorded = [(line["round"], line["channel"]) for _, line in rollouts_of(books.folder.path)]
    assert recorded == [(0, "fast")] * 2 + [(-1, "eval")] * 3 + [(1, "train")] * 4


def test_a2_evaluation_does_not_use_up_the_limit(books: Books) -> None:
    books.count("eval", rollouts("eval", 20), 0)
    assert books.left == 10
    books.count("fast", rollouts("fast", 3), 0)
    books.count("train", rollouts("train", 4), 1)
    assert books.left == 3
    books.count("train", rollouts("train", 4), 1)
    assert books.left == -1


def test_a3_a_slow_round(books: Books) -> None:
    account = books.open_round("train", 3, 1)
    account.step(5, step(0.25), rollouts("train", 2))
    account.step(6, step(0.75), rollouts("train", 2))
    account.started -= 2.0
    books.close_round(account, 6, POPULATION)
    assert [event["step"] for event in books.events()] == [5, 6, 6]
    line = last(books, "round")
    assert list(line)[:5] == ["kind", "round", "channel", "cycle", "step"]
    assert (line["round"], line["channel"], line["cycle"], line["step"], line["reward"]) == (3, "slow", 1, 6, 0.5)
    assert line["population"] == [BETTER.id, SEED.id]
    assert line["scores"] == {BETTER.id: 0.75, SEED.id: 0.5}
    assert line["rollouts"] == {"train": 4, "fast": 0, "eval": 0}
    assert 2.0 <= line["seconds"] < 60.0
    assert books.seconds == pytest.approx(line["seconds"], abs=1e-3)
    assert "screening" not in line
    assert last(books, "step")["seconds"] == 0.123


@pytest.mark.parametrize("usage", [{}, {"calls": 7}])
def test_a3_a_fast_round_has_the_cost_of_reflection(books: Books, usage: dict[str, int]) -> None:
    account = books.open_round("fast", 0, 0)
    account.fast(fast(**usage))
    books.close_round(account, 0, POPULATION)
    line = last(books, "round")
    assert (line["channel"], line["reward"]) == ("fast", 0.75)
    assert line["screening"] == dataclasses.asdict(Screening(proposals=3))
    assert (line["anchors"], line["given_up"]) == (2, 1)
    assert line.get("reflector_usage", {}) == usage


def test_a3_the_last_event_of_a_kind(books: Books) -> None:
    """Found from the end of the record; one that a resume made void is none."""
    for number in (0, 1):
        books.close_round(books.open_round("train", number, 0), number, POPULATION)
    books.evaluation(0, 2, BETTER, Evaluation(accuracy=0.75, stderr=0.125))
    assert (books.last("round")["round"], books.last("evaluation")["accuracy"]) == (1, 0.75)
    books.folder.void_from(1)
    assert (books.last("round")["round"], books.last("evaluation")["accuracy"]) == (0, 0.75)
    with pytest.raises(StopIteration):
        books.last("end")


def test_a4_every_prompt_met_is_on_the_record(books: Books) -> None:
    books.open_round("fast", 2, 1).fast(fast())
    lines = {event["text"]: event for event in books.events()}
    assert {text: line["score"] for text, line in lines.items()} == {"seed": 0.5, "better": 0.75, "refused": None}
    assert {line["round"] for line in lines.values()} == {2}
    assert lines["better"]["parents"] == [SEED.id]
    assert lines["better"]["reflection"] == {"feedback": "p1 is wrong"}
    assert lines["seed"]["reflection"] is None


def test_a5_an_evaluation_and_the_end(books: Books) -> None:
    found = Evaluation(accuracy=0.75, stderr=0.125, kl=0.5, kl_seed_prompt=0.25, problems={"p0": 1.0, "p1": 0.5})
    books.seconds = 1.23456
    books.count("eval", rollouts("eval", 2), 0)
    books.evaluation(0, 2, BETTER, found)
    books.end(1, 2, found, "a" * 64, POPULATION)
    measured = {"accuracy": 0.75, "stderr": 0.125, "n": 2, "binary": True}
    shared = {**measured, "kl": 0.5, "kl_seed_prompt": 0.25, "seconds": 1.235}
    spent = {"train": 0, "fast": 0, "eval": 2}
    validation, end = books.events()
    kind = {"kind": "evaluation", "round": 0, "step": 2, "split": "validation", "prompt": BETTER.id}
    assert validation == {**kind, **shared, "rollouts": spent}
    prompts = {"adapter_sha256": "a" * 64, "prompts": ["better", "seed"]}
    assert end == {"kind": "end", "round": 1, **shared, "rollouts": spent, **prompts}


def test_a6_a_round_has_a_line_once_it_is_complete(books: Books) -> None:
    books.open_round("train", 0, 0).step(1, step(0.5), rollouts("train", 1))
    assert [event["kind"] for event in books.events()] == ["step"]
    assert books.seconds == 0.0


def test_a_step_shows_what_it_took(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(books.progress, "step", lambda *figures: shown.append(figures))
    monkeypatch.setattr("fst.method.run.books.peak_bytes", lambda: 3 * 2**29)
    books.step(0, 1, step(0.5), rollouts("train", 4))
    assert shown == [(1, 0.5, "signal in 1 of 2 groups, 0.1 s for 8 new tokens, at most 1.5 GiB so far")]
    books.step(0, 2, dataclasses.replace(step(0.5), reused=3, optimism=0.25), rollouts("train", 1))
    assert shown[1][2].startswith("signal in 1 of 2 groups, 3 rollouts reused, 0.1 s for 2 new tokens")
    assert [(e["reused"], e["optimism"]) for e in books.events()] == [(0, None), (3, 0.25)]
    assert books.budget.train == 5, "what was reused was counted when it was sampled"
