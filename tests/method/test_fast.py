"""The fast round on real GEPA: invariants P1 to P10 of fst/method/fast/round.py on a toy without a model.

The toy: a prompt is a string of letters, and problem i earns 1 if the prompt holds the letter that the world
asks of it. The world is what the slow weights are elsewhere: turn it, and other letters are asked.
"""

from __future__ import annotations

import itertools
import random
import string
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.config import PROPOSALS, FastParams
from fst.data.scoring import feedback_text, parse_feedback
from fst.data.types import Problem
from fst.errors import ReflectorError
from fst.method.fast.frontier import mean_score
from fst.method.fast.round import Evolver, FastRound, RoundPlan, fast_round
from fst.models.reflector import Proposal
from fst.types import Population, Prompt, Rollout

Write = Callable[[str, list[str], random.Random], str]


@dataclass
class World:
    """Scores pairs and remembers how many it was given, and with which prompts."""

    turn: int = 0
    calls: list[int] = field(default_factory=list)
    prompts: set[str] = field(default_factory=set)

    def reward(self, text: str, problem: Problem) -> float:
        return float(self.asked(problem) in text)

    def asked(self, problem: Problem) -> str:
        return string.ascii_lowercase[(int(problem.id) + self.turn) % 26]

    def roll(self, pairs: Sequence[tuple[Prompt, Problem]]) -> list[Rollout]:
        self.calls.append(len(pairs))
        self.prompts |= {prompt.text for prompt, _ in pairs}
        rollouts = []
        for prompt, problem in pairs:
            reward = self.reward(prompt.text, problem)
            told = Problem(problem.id, "toy", problem.question, self.asked(problem))
            feedback = feedback_text(told, "", "nothing" if reward else "wrong")
            rollouts.append(Rollout("fast", problem.id, prompt.id, self.turn, "", (), (), reward, feedback))
        return rollouts


@dataclass
class Toy:
    """A reflector: `write(current, letters asked, rng)` is the next prompt."""

    write: Write
    asked: int = 0

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        self.asked += 1
        pairs = [pair for pair in map(parse_feedback, feedback) if pair]
        return Proposal(self.write(current, [letter for _, letter in pairs], random.Random(seed)), 3, 2, 10)


def add_a_letter(current: str, letters: list[str], rng: random.Random) -> str:
    return current + rng.choice([letter for letter in letters if letter not in current] or [""])


def play(
    world: World,
    write: Write = add_a_letter,
    carried: Sequence[str] = ("x",),
    anchors: int = 8,
    seed: int = 5,
    **changes: int,
) -> FastRound:
    changes = {"prompts": 2, "minibatch": 4, "budget": 400, "patience": 3, "max_prompt_tokens": 64, **changes}
    evolver = Evolver(world.roll, Toy(write), FastParams(anchors=anchors, **changes), len)
    problems = [Problem(str(i), "toy", f"problem {i}", "?") for i in range(anchors)]
    population = Population(tuple(Prompt(text) for text in carried))
    return fast_round(evolver, population, problems, RoundPlan(3, seed, changes["budget"], world.turn))


def texts(found: FastRound) -> list[str]:
    return [prompt.text for prompt in found.population.prompts]


def best_mean(found: FastRound) -> float:
    return found.population.scores[found.population.best.id]


def test_p0_the_toy_is_solved_and_ancestry_is_kept() -> None:
    found = play(world := World(), prompts=1)
    assert best_mean(found) == 1.0
    assert set(found.population.best.text) >= set("abcdefgh")
    assert found.population.weights == world.turn
    born = [prompt for prompt in found.prompts.values() if prompt.origin == "reflection"]
    assert len(born) >= 8
    for prompt in born:
        assert ([found.prompts[parent].text for parent in prompt.parents], prompt.born) == ([prompt.text[:-1]], 3)
    assert set(found.reflections) == {prompt.id for prompt in born}
    cost = found.screening
    assert (cost.proposals, cost.screened, cost.tokens) == (3 * len(born), 2 * len(born), 10 * len(born))


def test_p1_no_score_of_older_weights_survives() -> None:
    first = play(world := World(), prompts=2)
    assert best_mean(first) == 1.0
    world.turn = 13  # none of the letters learnt is asked any more
    second = play(world, lambda *_: "", texts(first), prompts=2)
    assert (best_mean(second), second.population.weights) == (0.0, 13)
    world.turn = 4  # half of them are asked
    third = play(world, lambda *_: "", [*texts(first), "x"], prompts=2)
    for name, by_problem in third.scores.items():
        text = third.prompts[name].text
        assert by_problem == {str(i): world.reward(text, Problem(str(i), "", "", "")) for i in range(8)}
    assert best_mean(third) == 0.5


@settings(max_examples=40, deadline=None)
@given(
    budget=st.integers(1, 200),
    anchors=st.integers(1, 10),
    minibatch=st.integers(1, 10),
    carried=st.integers(1, 4),
    prompts=st.integers(1, 4),
    write=st.sampled_from([add_a_letter, lambda current, letters, rng: "", lambda *_: "abcdefghij"]),
)
def test_p2_p3_the_budget_holds_and_the_population_is_never_empty(
    budget: int, anchors: int, minibatch: int, carried: int, prompts: int, write: Write
) -> None:
    start = ["x", "y", "ab", "c"][:carried]
    world = World()
    smaller = min(minibatch, anchors)
    found = play(world, write, start, anchors, budget=budget, minibatch=smaller, prompts=prompts, patience=9)
    assert found.spent == sum(world.calls)
    assert found.spent <= budget
    assert found.anchors <= anchors
    assert len(found.population.prompts) == prompts
    kept = {prompt.id for prompt in found.population.prompts}
    assert set(found.population.scores) == (kept if budget >= carried else set())
    for name, scores in found.population.scores.items():
        mine = [rollout for rollout in found.rollouts if rollout.prompt_id == name]
        assert found.anchors <= len(mine), "each anchor, and the minibatches"
        assert {rollout.problem_id for rollout in mine} == set(found.scores[name])
        assert scores == pytest.approx(mean_score(found.scores[name]))
    assert {rollout.prompt_id for rollout in found.rollouts} == set(found.population.scores)


@settings(max_examples=25, deadline=None)
@given(
    spare=st.integers(0, 100),
    anchors=st.integers(1, 40),
    minibatch=st.integers(1, 8),
    carried=st.integers(1, 4),
    wanted=st.integers(1, PROPOSALS),
)
def test_p2_a_round_has_rollouts_for_its_proposals_however_dear(
    spare: int, anchors: int, minibatch: int, carried: int, wanted: int
) -> None:
    """The dearest: all are as good as their parents, so each is scored on all anchors, and nothing is solved."""
    params = FastParams(prompts=4, anchors=max(anchors, minibatch), minibatch=minibatch, patience=100)
    budget = (carried + 3 * wanted) * minibatch + spare
    world, toy = World(turn=13), Toy(lambda current, *_: current + "a")
    problems = [Problem(str(i), "toy", f"problem {i}", "?") for i in range(anchors)]
    population = Population(tuple(Prompt("a" * (i + 50)) for i in range(carried)))
    world.asked = lambda problem: "z"  # type: ignore[method-assign]
    evolver = Evolver(world.roll, toy, params.replace(max_prompt_tokens=999), len)
    found = fast_round(evolver, population, problems, RoundPlan(3, 1, budget, 0))
    assert toy.asked >= wanted
    assert found.spent == sum(world.calls) <= budget
    assert found.anchors == min(anchors, params.room(budget, carried)[0])


def test_p2_the_papers_round_makes_three_proposals_when_four_prompts_are_carried() -> None:
    """192 anchors, 960 rollouts, K = 4: once 4 x 192 left 192, less than a proposal's 208."""
    params = FastParams(prompts=4, anchors=192, minibatch=8, budget=960, patience=10, max_prompt_tokens=999)
    assert params.room(960, 1) == (192, 3)
    assert params.room(960, 4) == (130, 3)
    assert FastParams().room(400, 4) == (32, 3), "the lab scores on all of its anchors"
    number = itertools.count()
    world, toy = World(), Toy(lambda current, *_: f"{current} {next(number)}")
    problems = [Problem(str(i), "toy", f"problem {i}", "?") for i in range(192)]
    population = Population(tuple(map(Prompt, ["ab", "bc", "cd", "de"])))
    found = fast_round(Evolver(world.roll, toy, params, len), population, problems, RoundPlan(3, 1, 960, 0))
    assert (toy.asked, found.anchors, found.spent) == (3, 130, 4 * 130 + 3 * (16 + 130))


def test_p2_a_budget_of_less_than_a_rollout_a_prompt_leaves_the_population_as_it_is() -> None:
    found = play(world := World(), carried=["b", "a", "c"], budget=2, prompts=4)
    assert (texts(found), found.population.scores, found.spent) == (["b", "a", "c", "b"], {}, 0)
    assert world.calls == []


@pytest.mark.parametrize(
    ("write", "reason", "longest"),
    [
        (lambda *_: "", "empty", 0),
        (lambda *_: " \n\t ", "empty", 0),
        (lambda *_: "abc", "known", 0),
        (lambda *_: "q" * 100_000, "too_long", 100_000),
        (lambda *_: "\x00\ud83d 日本".encode("utf-8", "replace").decode(), "", 0),
    ],
    ids=["empty", "blank", "known", "100-KB", "garbage"],
)
def test_p4_a_bad_reflector_loses_nothing_and_why_it_was_refused_is_counted(
    write: Write, reason: str, longest: int
) -> None:
    """Patience ends the round after three proposals; garbage is a prompt like any other, and known the second time."""
    world = World()
    found = play(world, write, ["abc", "cdefgh"], patience=3)
    assert (texts(found), list(found.population.scores.values())) == (["cdefgh", "abc"], [6 / 8, 3 / 8])
    assert 2 * 8 < found.spent <= 2 * 8 + 3 * (2 * 4 + 8)
    assert max(map(len, world.prompts)) < 100
    assert (found.screening.asked, found.screening.errors, found.screening.longest) == (3, 0, longest)
    assert found.screening.refused == {
        "empty": 3 if reason == "empty" else 0,
        "known": 3 if reason == "known" else 0 if reason else 2,
        "too_long": 3 if reason == "too_long" else 0,
    }


@dataclass
class Failing:
    """A reflector that fails at every call but those in `answers`, counted from 1."""

    error: Exception
    answers: frozenset[int] = frozenset()
    calls: int = 0

    def __call__(self, current: str, letters: list[str], rng: random.Random) -> str:
        self.calls += 1
        if self.calls in self.answers:
            return ""
        raise self.error


def test_p4_a_failure_costs_one_proposal_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(ReflectorError("no answer after 5 retries"), frozenset([2]))
    with caplog.at_level("WARNING", logger="fst"):
        found = play(World(), failing, ["abc", "cdefgh"], patience=3)
    assert (found.screening.asked, found.screening.errors, found.screening.refused["empty"]) == (3, 2, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "round 3: the reflector failed, no proposal: no answer after 5 retries"
    ] * 2
    assert texts(found) == ["cdefgh", "abc"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(ReflectorError("HTTP 401: set the key"), "HTTP 401: set the key"), (TimeoutError(), "TimeoutError")],
)
def test_p4_a_reflector_that_fails_every_time_ends_the_round_with_its_last_error(error: Exception, said: str) -> None:
    with pytest.raises(ReflectorError, match=f"round 3: all 3 calls of the reflector failed, .*: {said}. .*--resume"):
        play(World(), failing := Failing(error), patience=3)
    assert failing.calls == 3


def test_p4_a_machine_that_fails_is_an_error_and_not_a_score() -> None:
    world = World()

    def roll(pairs: Sequence[tuple[Prompt, Problem]]) -> list[Rollout]:
        if world.calls:
            raise MemoryError("the accelerator is full")
        return world.roll(pairs)

    evolver = Evolver(roll, Toy(add_a_letter), FastParams(prompts=1, anchors=4, minibatch=2), len)
    problems = [Problem(str(i), "toy", "", "?") for i in range(4)]
    with pytest.raises(MemoryError, match="the accelerator is full"):
        fast_round(evolver, Population((Prompt("x"),)), problems, RoundPlan(0, 0, 400, 0))


@pytest.mark.parametrize("cap", [1, 5, 64])
def test_p5_no_prompt_over_the_token_cap_costs_a_rollout(cap: int) -> None:
    found = play(world := World(), max_prompt_tokens=cap)
    assert max(map(len, world.prompts)) == min(cap, len(found.population.best.text))
    assert best_mean(found) == min(cap - 1, 8) / 8  # "x" and cap-1 letters; 8 letters solve the toy


def test_p6_a_text_is_scored_once_and_stands_in_the_frontier_once() -> None:
    found = play(world := World(), lambda *_: "abc", ["x", "abc", "abc", "x"], prompts=4)
    assert world.calls[0] == 2 * 8, "padding is not scored again"
    assert set(world.calls[1:]) == {4}, "a text that is known already is refused before it costs a rollout"
    assert (texts(found), [prompt.text for prompt in found.prompts.values()]) == (["abc"] * 4, ["x", "abc"])


def test_p7_the_same_seed_and_weights_give_the_same_round() -> None:
    def trace(seed: int) -> tuple[object, ...]:
        world = World()
        found = play(world, carried=["x", "h"], seed=seed)
        found.screening.seconds = 0.0
        reflections = {name: {**facts, "seconds": 0.0} for name, facts in found.reflections.items()}
        calls = tuple(world.calls)
        return found.population, found.scores, found.prompts, reflections, found.spent, found.screening, calls

    assert trace(5) == trace(5)
    assert trace(5) != trace(6)


def test_slices_two_prompts_that_are_best_on_half_of_the_problems_both_stay() -> None:
    def one_half(current: str, letters: list[str], rng: random.Random) -> str:
        missing = [letter for letter in letters if letter not in current]
        return "abcd" if missing and missing[0] in "abcd" else "efgh"

    assert set(texts(found := play(World(), one_half, prompts=2, patience=8))) == {"abcd", "efgh"}
    assert set(found.population.scores.values()) == {0.5}


def test_the_round_is_silent_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (work := tmp_path / "work").mkdir()
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    play(World())
    assert capfd.readouterr() == ("", "")
    assert [*work.iterdir(), *scratch.iterdir()] == []


def test_progress_hears_of_every_proposal() -> None:
    heard: list[tuple[int, int, float]] = []
    params = FastParams(prompts=1, anchors=8, minibatch=4, budget=100)
    evolver = Evolver(World().roll, toy := Toy(add_a_letter), params, len, lambda *facts: heard.append(facts))
    problems = [Problem(str(i), "toy", "", "?") for i in range(8)]
    fast_round(evolver, Population((Prompt("x"),)), problems, RoundPlan(0, 1, 100, 0))
    assert len(heard) == toy.asked > 3
    assert heard[0] == (8 + 4, 100, 0.0)
    assert [spent for spent, _, _ in heard] == sorted(spent for spent, _, _ in heard)


def test_p8_where_reflection_reads_the_reward_alone_no_wrong_answer_tells_what_is_right() -> None:
    """Only what was answered rightly is a pair; of the rest, input, output and reward."""
    world, read = World(), list[str]()

    class Listening(Toy):
        def propose(
            self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
        ) -> Proposal:
            read.extend([*feedback, *evidence])
            return super().propose(current, feedback, evidence, avoid, seed)

    problems = [Problem(str(i), "toy", f"problem {i}", "?") for i in range(8)]
    params = FastParams(anchors=8, prompts=2, minibatch=4, budget=400, patience=3, feedback="reward")
    evolver = Evolver(world.roll, Listening(add_a_letter), params, len)
    fast_round(evolver, Population((Prompt("ab"),)), problems, RoundPlan(0, 1, 400, 0))
    told = {text for text in read if "expected: " in text}
    assert {pair for text in told if (pair := parse_feedback(text))} <= {("problem 0", "a"), ("problem 1", "b")}
    silent = [text for text in read if text not in told]
    assert silent
    assert all(text.endswith("\nreward: 0") and parse_feedback(text) is None for text in silent)


class Lucky(World):
    """A world in which what reflection writes is right on every minibatch and wrong on all else, and the rest half."""

    def reward(self, text: str, problem: Problem) -> float:
        return float(self.calls[-1] == 4) if "!" in text else 0.5


def test_p9_who_is_given_up_costs_a_part_and_is_not_on_the_frontier() -> None:
    found = play(
        world := Lucky(), lambda current, _, rng: f"{current}!{rng.random()}", ["x"], anchors=96, patience=2, budget=500
    )
    assert world.calls == [96, *(4, 4, 32) * 2]
    assert (found.spent, found.given_up, found.anchors) == (sum(world.calls), 2, 96)
    assert (texts(found), list(found.scores)) == (["x"] * 2, [Prompt("x").id])
    assert set(found.prompts) == {Prompt("x").id, *found.reflections}
    assert len(found.reflections) == 2


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_p9_all_scores_are_of_all_anchors(seed: int, carried: int) -> None:
    class Noisy(World):
        def reward(self, text: str, problem: Problem) -> float:
            return float(rng.random() < len(text) % 5 / 5)

    rng = random.Random(seed)
    start = ["x" * (i + 1) for i in range(carried)]
    found = play(world := Noisy(), lambda current, _, rng: current + rng.choice("ab"), start, 70, seed, patience=9)
    assert {frozenset(row) for row in found.scores.values()} == {frozenset(map(str, range(found.anchors)))}
    assert found.spent == sum(world.calls) <= 400
    scored = len(found.scores) - carried
    assert scored + found.given_up <= len(found.reflections)


@pytest.mark.parametrize(("share", "accepted"), [(1.0, True), (0.95, True), (0.8, False)])
def test_p10_a_proposal_behind_by_less_than_a_tie_is_as_good_as_its_parent(share: float, accepted: bool) -> None:
    class Partial(World):
        def reward(self, text: str, problem: Problem) -> float:
            return 0.5 * share if "!" in text else 0.5

    found = play(world := Partial(), lambda current, *_: current + "!", ["x"], patience=1)
    assert world.calls == ([8, 4, 4, 8] if accepted else [8, 4, 4])
    assert texts(found) == (["x", "x!"] if accepted else ["x", "x"])
