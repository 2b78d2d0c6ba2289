"""Reuse of a fast round's rollouts in the slow round after it. The invariants are numbered in fst/method/slow/reuse.py;
U6 is in test_resume.py and test_ranks.py, and what U4 makes of loss and gradient in test_slow.py."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fst.config import params_from_dict
from fst.data.types import Domain, Problem
from fst.method.fast.round import FastRound, Screening
from fst.method.learner import Learner
from fst.method.run.books import Books
from fst.method.slow.dealing import group_advantages, grouped, slot
from fst.method.slow.reuse import Spare, optimism, spare, spare_from
from fst.models.policy import Policy
from fst.runs.progress import Progress
from fst.runs.records import RunFolder
from fst.types import Prompt, Rollout
from support.slow_toys import PROBLEMS, PROMPTS, Watched, drawn, population, verify

GROUP = 4
TOY = Domain("toy", PROBLEMS, (), (), verify)


def rollout(problem: str, prompt: Prompt, reward: float = 1.0, text: str = "a") -> Rollout:
    return Rollout("fast", problem, prompt.id, 0, text, (5, 2), (-0.5, -0.25), reward, "")


@given(st.data())
def test_u1_u2_u3_what_is_dealt(data: st.DataObject) -> None:
    """Any step on any spare rollouts; problems may come twice, and a population may hold a prompt twice."""
    k = data.draw(st.sampled_from([1, 2, 4, 8]))
    prompts = [data.draw(st.sampled_from(PROMPTS)) for _ in range(k)]
    problems = [PROBLEMS[i] for i in data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))]
    cells = data.draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(PROMPTS)), max_size=30))
    had = [rollout(f"p{i}", prompt, text=str(at)) for at, (i, prompt) in enumerate(cells)]
    rest = spare(had)
    dealt = rest.deal(problems, prompts, 8)

    assert len(dealt) == 8 * len(problems)
    for place, found in enumerate(dealt):
        if found:
            assert (found.problem_id, found.prompt_id) == (
                problems[place // 8].id,
                prompts[slot(place, 8, k)].id,
            ), "U1"
    texts = [found.text for found in dealt if found]
    assert len(set(texts)) == len(texts), "U2"
    left = [found.text for cell in rest.cells.values() for found in cell]
    assert not set(left) & set(texts), "U2: what is dealt is gone"
    for first in range(0, len(dealt), 8 // k):
        assert None in dealt[first : first + 8 // k], "U3"
    for problem, prompt in itertools.product(problems, prompts):
        rows = [p for p in range(len(dealt)) if problems[p // 8] == problem and prompts[slot(p, 8, k)] == prompt]
        room = sum((p + 1) % (8 // k) > 0 for p in rows)
        has = sum((r.problem_id, r.prompt_id) == (problem.id, prompt.id) for r in had)
        assert sum(dealt[p] is not None for p in rows) == min(room, has), "nothing that fits is left out"


@pytest.mark.parametrize("reuse", [True, False])
def test_u2_a_run_has_them_from_a_fast_round_to_the_end_of_the_slow_one(reuse: bool, tmp_path: Path) -> None:
    books = Books(RunFolder.create(tmp_path / "run", {}), Progress(1, 1, "fst", "toy", quiet=True), limit=10)
    params = params_from_dict({"loop": {"reuse": reuse}})
    learner = Learner("fst", TOY, params, None, None, books, 0, None, population(1))
    kept = [rollout("p0", PROMPTS[1])]
    with learner.in_round("fast"):
        learner.adopt(FastRound(population(2), {}, {}, {}, 1, Screening(), rollouts=kept))
    assert learner.population == population(2)
    assert learner.spare == spare(kept if reuse else ())
    with learner.in_round("train"):
        assert learner.spare == spare(kept if reuse else ())
    assert learner.spare == Spare()
    books.close()


def test_a_checkpoint_gives_back_what_it_was_given() -> None:
    odd = Rollout("fast", "p1", PROMPTS[1].id, 3, "ä\n", (7,), (-1 / 3,), 0.1, "says", cut=True)
    kept = Spare({("p1", PROMPTS[1].id): [odd], ("p0", PROMPTS[0].id): [rollout("p0", PROMPTS[0])] * 2})
    assert spare_from(json.loads(json.dumps(kept.as_list()))) == kept


def test_requests_are_asked_once_where_all_neighbours_are_equally_many() -> None:
    assert grouped([[1], [1], [2], [2]]) == ([[1], [2]], 2)
    assert grouped([[1], [2]]) == ([[1], [2]], 1)
    assert grouped([[1], [1], [2]]) == ([[1], [1], [2]], 1)
    assert grouped([]) == ([], 1)


def test_optimism_is_over_the_reused_rewards() -> None:
    a, b = PROMPTS[:2]
    reused = [rollout("p0", a, 1.0), rollout("p1", a, 1.0), rollout("p1", b, 0.5)]
    fresh = [rollout("p0", a, r) for r in (1.0, 0.0)] + [rollout("p1", a, 0.25), rollout("p1", b, 1.0)]
    assert optimism(reused, [*fresh, rollout("p0", b, 0.0)]) == pytest.approx((0.5 + 0.75 - 0.5) / 3)
    assert optimism([], fresh) is None


@pytest.fixture
def had(policy: Policy) -> list[Rollout]:
    """A rollout of each of two prompts on the first two problems, rewards mixed."""
    answers = drawn(policy, [3, 5, 2, 7], seed=5)
    cells = itertools.product(PROBLEMS[:2], PROMPTS[:2])
    return [
        Rollout("fast", problem.id, prompt.id, 0, a.text, a.tokens, (-3.0,) * len(a.tokens), float(i % 2), "")
        for i, ((problem, prompt), a) in enumerate(zip(cells, answers, strict=True))
    ]


def test_u1_u5_a_step_samples_the_rest_alone(policy: Policy, tmp_path: Path, had: list[Rollout]) -> None:
    slow, judged = Watched(policy, tmp_path), []

    def watched(problem: Problem, text: str) -> object:
        judged.append(text)
        return verify(problem, text)

    slow.verify = watched
    result, rollouts = slow.train_step(population(2), PROBLEMS[:3], spare(had))
    a, b = (prompt.id for prompt in PROMPTS[:2])
    cells = [("p0", a), ("p0", b), ("p1", a), ("p1", b), ("p2", a), ("p2", a), ("p2", b), ("p2", b)]
    assert [(r.problem_id, r.prompt_id) for r in rollouts] == cells, "U5: what was sampled, and that alone"
    assert judged == [r.text for r in rollouts], "a reward is known already"
    assert {r.purpose for r in rollouts} == {"train"}
    assert result.reward == pytest.approx(sum(r.reward for r in rollouts) / 8)
    assert (result.reused, result.groups) == (4, 3)
    assert result.optimism == pytest.approx(sum(i % 2 - rollouts[i].reward for i in range(4)) / 4)

    rows = [had[0], rollouts[0], had[1], rollouts[1], had[2], rollouts[2], had[3], rollouts[3], *rollouts[4:]]
    for place, row in enumerate(rows):
        answered = slow.before["completion_ids"][place][slow.before["completion_mask"][place].bool()]
        assert answered.tolist() == list(row.tokens), "U1: in its prompt's place"
    rewards = torch.tensor([row.reward for row in rows])
    torch.testing.assert_close(slow.before["advantages"], group_advantages(rewards, GROUP))


def test_u4_the_loss_knows_what_a_reused_answer_was_sampled_with(
    policy: Policy, tmp_path: Path, had: list[Rollout]
) -> None:
    """A fresh answer's ratio is 1: what it was sampled with is what the model gives it."""
    slow = Watched(policy, tmp_path, learning_rate=0.0)
    slow.perturb()
    slow.train_step(population(2), PROBLEMS[:3], spare(had))
    old, mask = slow.before["old_per_token_logps"], slow.before["completion_mask"]
    for place, row in zip((0, 2, 4, 6), had, strict=True):
        assert old[place][mask[place].bool()].tolist() == list(row.logprobs)

    ids = torch.cat([slow.before["prompt_ids"], slow.before["completion_ids"]], 1)
    seen = torch.cat([slow.before["prompt_mask"], mask], 1)
    with torch.no_grad():
        now = slow.trainer._get_per_token_logps_and_entropies(slow.trainer.model, ids, seen, mask.shape[1])[0]
    fresh = [1, 3, 5, 7, 8, 9, 10, 11]
    torch.testing.assert_close(old[fresh][mask[fresh].bool()], now[fresh][mask[fresh].bool()], atol=1e-4, rtol=0)


def test_u4_without_reused_answers_every_ratio_is_one_exactly(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path)
    slow.train_step(population(2), PROBLEMS[:3], Spare())
    assert slow.before.get("old_per_token_logps") is None


RIGHT = (1.0, 1.0, 0.0)  # rewards of the three answers there are
THETA = ((0.2, -0.4, 0.5), (0.9, 0.1, -0.3))  # their logits under either prompt, on every problem


def chances(prompt: int) -> list[float]:
    mass = [math.exp(logit) for logit in THETA[prompt]]
    return [m / sum(mass) for m in mass]


def score(prompt: int, answer: int) -> list[float]:
    """The gradient of an answer's log-probability by the logits."""
    return [float(i == answer) - chance for i, chance in enumerate(chances(prompt))]


def gradient(prompt: int, weight: list[float], baseline: float) -> list[float]:
    """The expected gradient of a row whose answer is drawn with these chances."""
    terms = [
        [w * (r - baseline) * g for g in score(prompt, y)] for y, (w, r) in enumerate(zip(weight, RIGHT, strict=True))
    ]
    return [sum(column) for column in zip(*terms, strict=True)]


@pytest.mark.parametrize("baseline", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("prompt", [0, 1])
def test_u7_selection_does_not_turn_the_gradient(prompt: int, baseline: float) -> None:
    """Two prompts answer two problems once each, and the one with more right answers is chosen: all 81 outcomes, seen
    from the answer of the chosen prompt to the first problem."""
    chosen = [0.0, 0.0, 0.0]
    for answers in itertools.product(range(3), repeat=4):
        mine, other = answers[2 * prompt :][:2], answers[2 - 2 * prompt :][:2]
        margin = sum(RIGHT[y] for y in mine) - sum(RIGHT[y] for y in other)
        if margin > 0 or (margin == 0 and prompt == 0):
            chosen[mine[0]] += math.prod(chances(i // 2)[y] for i, y in enumerate(answers))
    reused = [share / sum(chosen) for share in chosen]
    p, higher = (sum(w * r for w, r in zip(weight, RIGHT, strict=True)) for weight in (chances(prompt), reused))
    assert higher > p + 0.05, "there is something to bound"
    factor = (1 - baseline) * higher / p + baseline * (1 - higher) / (1 - p)
    assert 0 < (1 - higher) / (1 - p) <= factor <= higher / p
    fresh = gradient(prompt, chances(prompt), baseline)
    assert max(map(abs, fresh)) > 0.05
    assert gradient(prompt, reused, baseline) == pytest.approx([factor * g for g in fresh])
