"""What keeps a run from learning: invariants O1 to O4 of fst/runs/outcome.py, on answers written by hand, the books of
a real run folder, and records."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fst.data.scoring import RAISED, feedback_text
from fst.data.types import Problem
from fst.errors import NothingLearned
from fst.method.evaluation import mean_at
from fst.method.fast.account import Screening
from fst.method.fast.round import FastRound
from fst.method.run.books import Books
from fst.method.slow.weights import StepResult
from fst.report.closing import closing, require_learning
from fst.runs.outcome import ENOUGH, SHOWN, Outcome, Tally, no_proposal, no_signal, outcome_of, sample
from fst.runs.progress import Progress
from fst.runs.records import RunFolder
from fst.runs.view import load_run
from fst.types import Population, Prompt, Purpose, Rollout
from support.run_toys import GOOD, SEED, end, evaluation, fst_events, prompt, rl_events, round_, spent, step, write_run

BROKEN = f"{RAISED}KeyError: 'slot'"


def answer(
    number: int, reward: float = 0.0, differs: str = "wrong", cut: bool = False, purpose: Purpose = "train"
) -> Rollout:
    problem = Problem(f"p{number % 10}", "toy", f"question {number % 10}", "42")
    text = f"answer {number}"
    tokens, feedback = (1, 2, 3), feedback_text(problem, text, differs)
    return Rollout(purpose, problem.id, "prompt", 0, text, tokens, (0.0,) * 3, reward, feedback, cut)


def answers(count: int, **facts: Any) -> list[Rollout]:
    return [answer(number, **facts) for number in range(count)]


def tally(*rollouts: Rollout) -> Tally:
    found = Tally()
    found.add(rollouts)
    return found


def kind(found: Tally, whole: bool = True) -> str | None:
    trouble = found.trouble(whole)
    return trouble and trouble.kind


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(RunFolder.create(tmp_path / "run", {}), Progress(4, 2, "fst", "toy", quiet=True), limit=10)
    yield books
    books.close()


def troubles(books: Books) -> list[tuple[int, str]]:
    return [(e["round"], e["trouble"]) for e in books.events() if e["kind"] == "trouble"]


def test_a_sample_says_what_was_asked_answered_and_scored() -> None:
    lines = sample(answer(3, differs="41 instead of 42", cut=True)).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        ["asked", "question 3"],
        ["expected", "42"],
        ["answered", "answer 3 (cut off)"],
        ["scored", "0: 41 instead of 42"],
    ]
    free = Rollout("eval", "p7", "prompt", 0, "", (), (), 0.5, "of another form")
    assert [line.split(maxsplit=1) for line in sample(free).splitlines()] == [
        ["asked", "problem p7"],
        ["answered", "nothing"],
        ["scored", "0.5: of another form"],
    ]


def test_a_sample_shows_how_an_answer_was_read_where_that_is_a_part_of_it() -> None:
    told = replace(answer(3), text="I think:\n it is 41", read="41")
    assert "    read as   41" in sample(told).splitlines()
    assert "read as" not in sample(replace(told, read="I think: it is 41"))
    assert "read as" not in sample(replace(told, read=None))


def test_a_sample_shows_the_end_of_a_long_answer() -> None:
    long = Rollout("eval", "p", "prompt", 0, "x" * 500 + " so it is 42", (), (), 1.0, "")
    (line,) = [line for line in sample(long).splitlines() if "answered" in line]
    assert line.endswith("so it is 42")
    assert len(line) < 230


@pytest.mark.parametrize(
    ("rollouts", "expected"),
    [
        (answers(9, differs=BROKEN), "verifier"),
        (answers(9, differs=BROKEN, cut=True), "verifier"),
        (answers(9, cut=True), "cut off"),
        ([*answers(5, cut=True), *answers(4, reward=1.0)], "cut off"),
        ([*answers(5, cut=True), *answers(5)], "zero"),
        (answers(9), "zero"),
        (answers(9, reward=0.07), "equal"),
        (answers(9, reward=1.0), None),
        ([*answers(8), answer(8, reward=1.0)], None),
        ([*answers(5), *answers(4, differs=BROKEN)], "zero"),
        ([], None),
    ],
)
def test_the_cause_comes_before_what_follows_from_it(rollouts: list[Rollout], expected: str | None) -> None:
    assert kind(tally(*rollouts)) == expected


def test_a_trouble_names_figures_the_key_and_samples_of_different_problems() -> None:
    cut = tally(*answers(10, cut=True), *answers(2)).trouble()
    assert cut is not None
    assert cut.says.startswith("10 of 12 answers were cut off at 3 tokens: raise model.max_new_tokens")
    assert len(cut.samples) == SHOWN
    assert [text.splitlines()[0].split()[-1] for text in cut.samples] == ["0", "1", "2"]
    broken = tally(*answers(12, differs=BROKEN)).trouble()
    assert broken is not None
    assert "raised on 12 of 12 answers, the last time KeyError: 'slot'" in broken.says


@pytest.mark.parametrize("facts", [{"differs": BROKEN}, {"cut": True}])
def test_o1_what_a_few_answers_prove_is_found_at_once(facts: dict[str, Any], books: Books) -> None:
    books.open_round("fast", 3, 1)
    books.count("fast", answers(ENOUGH - 1, **facts), 3)
    assert troubles(books) == []
    books.count("fast", answers(1, **facts), 3)
    assert [number for number, _ in troubles(books)] == [3]


def test_o1_all_else_is_found_when_the_round_is_complete(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    account = books.open_round("train", 0, 0)
    account.step(1, StepResult(0.0, 10, 0, 0.0, 0.0, 1.0), answers(2 * ENOUGH))
    assert troubles(books) == []
    with caplog.at_level(logging.WARNING, "fst"):
        books.close_round(account, 1, Population((Prompt("seed"),)))
    assert troubles(books) == [(0, "zero")], "and that no group had signal follows from it"
    assert f"round 0: none of {2 * ENOUGH} answers earned a reward" in caplog.text
    assert "scored    0: wrong" in caplog.text


def test_o2_once_a_round_on_the_record_and_once_a_run_in_words(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fst"):
        for number in (0, 1):
            account = books.open_round("train", number, 0)
            for at in (1, 2):
                account.step(at, StepResult(0.0, 10, 0, 0.0, 0.0, 1.0), answers(ENOUGH, cut=True))
            books.close_round(account, 2, Population((Prompt("seed"),)))
    assert troubles(books) == [(0, "cut off"), (1, "cut off")]
    assert len(caplog.records) == 1


def test_o3_an_evaluation_is_said_and_not_held_against_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books = Books(RunFolder.create(tmp_path / "run", {}), Progress(4, 2, "fst", "toy"), limit=10)
    rollouts = answers(10, purpose="eval")
    books.count("eval", rollouts, -1)
    books.probed(Prompt("seed"), mean_at(rollouts, 1))
    (event,) = books.events()
    assert (event["kind"], event["round"], event["says"][:12]) == ("probe", -1, "none of 10 a")
    assert event["samples"] == [sample(rollout) for rollout in rollouts[:SHOWN]]
    said = capsys.readouterr().err
    assert "before training, mean@1 on 10 problems under 'seed': 0.0% (± 0.0); for instance" in said
    assert "beware: none of 10 answers earned a reward" in said
    assert said.count("answered  answer") == SHOWN
    books.count("eval", answers(10, reward=0.5, purpose="eval"), -1)
    books.probed(Prompt("seed"), mean_at(answers(10, reward=0.5), 2))
    assert "mean@2 on 5 problems under 'seed': mean reward 0.500" in capsys.readouterr().err
    books.close()


def test_no_signal() -> None:
    found = no_signal(96, 0, 0.5)
    assert found is not None
    assert found.says.startswith("in none of 96 groups did the rewards differ")
    assert no_signal(96, 1, 0.5) is None
    assert no_signal(96, 0, 1.0) is None, "all was right"
    assert no_signal(15, 0, 0.5) is None, "that may be chance"


@pytest.mark.parametrize(
    ("screening", "found", "evolved", "expected"),
    [
        (Screening(proposals=2, refused={"too_long": 2}), 0, False, "all 2 proposals were refused (2 too long): raise"),
        (Screening(proposals=2, refused={"too_long": 2}), 0, True, "all 2 proposals were refused"),
        (
            Screening(refused={"known": 3, "empty": 1}),
            0,
            False,
            "all 4 proposals were refused (3 known already, 1 w",
        ),
        (Screening(refused={"known": 3}), 0, True, None),
        (Screening(refused={"too_long": 2}), 1, False, None),
        (Screening(errors=3, proposals=1), 1, False, None),
        (Screening(errors=1, refused={"too_long": 1}), 0, False, "all 1 proposals were refused (1 too long), 1 calls"),
        (Screening(), 0, False, None),
    ],
)
def test_no_proposal(screening: Screening, found: int, evolved: bool, expected: str | None) -> None:
    trouble = no_proposal(vars(screening), found, evolved)
    assert (trouble and trouble.says[: len(expected or "")]) == expected


def test_a_fast_round_that_found_nothing_is_on_the_record(books: Books) -> None:
    seed = Prompt("seed")
    population = Population((seed,), {seed.id: 0.25})
    screening = Screening(proposals=1, refused={"too_long": 1}, samples=["    too_long, 87 tokens: 'long'"])
    account = books.open_round("fast", 2, 1)
    books.count("fast", [*answers(3), answer(3, reward=1.0)], 2)
    account.fast(FastRound(population, {seed.id: {"p0": 0.25}}, {seed.id: seed}, {}, 4, screening))
    books.close_round(account, 0, population)
    (event,) = [event for event in books.events() if event["kind"] == "trouble"]
    assert (event["round"], event["trouble"], event["samples"]) == (2, "refused", screening.samples)
    assert "fast.max_prompt_tokens" in event["says"]
    assert books.last("round")["screening"]["refused"] == {"too_long": 1}


def trouble(number: int, name: str = "zero") -> dict[str, Any]:
    return {"kind": "trouble", "round": number, "trouble": name, "says": f"{name} in {number}", "samples": ["a sample"]}


def barren(*more: dict[str, Any], first: float = 0.1, reward: float = 0.0) -> list[dict[str, Any]]:
    """A run of two rounds in which nothing was found."""
    slow = {**step(1, 1, reward), "kept_groups": 0}
    rounds = [{**round_(at, "slow", [SEED], spent(0)), "reward": reward} for at in (0, 1)]
    return [evaluation(-1, 0, first, 0.0, spent(0)), prompt(SEED, 0, 0.1), slow, *rounds, *more]


def outcome(*events: dict[str, Any]) -> tuple[bool, bool]:
    found = outcome_of(events)
    return found.learned, found.failed


def test_o4_nothing_learned_and_something_wrong_is_a_failure() -> None:
    assert outcome(*barren(trouble(0))) == (False, True)
    alone = [event for event in barren() if event["kind"] != "step"]
    assert outcome(*alone) == (False, False), "nothing was wrong: the prompt that the run began with was the best"
    (alike,) = outcome_of(barren()).sentences()
    assert alike.startswith("in none of 4 groups did the rewards differ"), "in no step of the whole run"
    assert outcome(*barren(trouble(0), {**step(1, 2, 0.1), "kept_groups": 1})) == (True, False)
    assert outcome(*barren(trouble(0), prompt(GOOD, 0, 0.2, SEED))) == (True, False)
    assert outcome(*barren(trouble(0), prompt(GOOD, 0, 0.1, SEED))) == (False, True), "no better than what was there"
    assert outcome(*barren(trouble(0), prompt(GOOD, 1, 0.9, SEED))) == (False, True), "of another round: no comparison"


def test_o4_a_run_that_began_perfect_is_no_failure() -> None:
    assert outcome(*barren(trouble(0), first=1.0)) == (True, False)
    assert outcome(*barren(trouble(0), reward=1.0)) == (True, False)


def test_the_first_trouble_of_each_kind_with_its_rounds() -> None:
    found = outcome_of(barren(trouble(0), trouble(0, "refused"), trouble(1)))
    assert [(t.kind, t.says, rounds) for t, rounds in found.troubles] == [
        ("zero", "zero in 0", 2),
        ("refused", "refused in 0", 1),
    ]
    assert found.sentences() == ["zero in 0 (2 rounds)", "refused in 0 (1 round)"]


def test_records_without_these_events_are_of_runs_that_went_well() -> None:
    for events in (fst_events(0.6), rl_events()):
        assert outcome_of(events) == Outcome(True, ())


def test_the_closing_lines(tmp_path: Path) -> None:
    cells = {"kind": "cells", "cells": {"base/seed": 0.125}, "n": 8, "round": 1}
    facts = {"n": 8, "binary": True}
    good = [*fst_events(0.6)[:-2], cells, {**end(1, 0.6, 0.02, spent(50, 100, 30), [GOOD, SEED]), **facts}]
    view = load_run(write_run(tmp_path, "fst", 0, good, params={"evaluate": {"samples": 2}}))
    first, *_, last = closing(view)
    assert first == (
        "fst on lab/sort_desc+add_one: test accuracy 12.5% -> 60.0% (± 3.0, mean@2 on 8 test problems), "
        "KL 0.0200 nats per token"
    )
    assert f"best prompt: {GOOD!r}" in closing(view)
    assert last.startswith("next: `fst report")
    good[0:0] = [{**step(0, at, 0.5), "reused": 2} for at in (1, 2)]
    view = load_run(write_run(tmp_path, "fst", 1, good))
    assert any("30 evaluation (4 of the fast ones used again in training); " in line for line in closing(view))
    partial = {**facts, "binary": False}
    bad = [*barren(trouble(0)), cells, {**end(1, 0.1, 0.0, spent(8), [SEED]), **partial}]
    view = load_run(write_run(tmp_path, "rl", 0, bad))
    assert "test mean reward 0.125 -> 0.100 (± 0.030, mean@n on 8 test problems)" in closing(view)[0]
    assert closing(view)[-2:] == ["in 1 round: zero in 0", "a sample"]


def test_a_command_fails_where_no_run_learned_anything(tmp_path: Path) -> None:
    bad = load_run(write_run(tmp_path, "rl", 0, [*barren(trouble(0)), end(1, 0.0, 0.0, spent(8), [SEED])]))
    good = load_run(write_run(tmp_path, "fst", 0, fst_events(0.6)))
    require_learning([good, bad])
    with pytest.raises(NothingLearned, match=r"^nothing was learned: zero in 0 \(1 round\)$") as raised:
        require_learning([bad])
    assert raised.value.exit_code == 8
