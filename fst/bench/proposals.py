"""`fst bench proposals`: how often a fast round scores a proposal on all of its anchors, and what that costs.

Rewards are drawn, so no model is needed: a prompt solves an anchor with a probability between 10% and 90%, and a
proposal from it with so many points more or less.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from fst.config import FastParams
from fst.method.fast.trial import gains, hopeless, parts

POINTS = {"30 points worse than": -0.3, "10 points worse than": -0.1, "as good as": 0.0, "10 points better than": 0.1}


@dataclass(frozen=True)
class Fate:
    """Of proposals of one kind: the share that pass the minibatch, the share that are scored on all anchors, and the
    mean rollouts of a proposal, with and without giving any up."""

    passed: float
    whole: float
    rollouts: float
    rollouts_before: float


def fate(points: float, anchors: int, params: FastParams, trials: int) -> Fate:
    """What becomes of proposals that solve an anchor with a probability `points` above their parent's."""
    rng = random.Random(f"{points} {anchors}")
    passed = whole = spent = 0
    for _ in range(trials):
        odds = [rng.uniform(0.1, 0.9) for _ in range(anchors)]
        parent = _answers(odds, 0.0, rng)
        batch = rng.sample(odds, params.minibatch)
        if sum(gains(_answers(batch, 0.0, rng), _answers(batch, points, rng), params.tie)) < 0:
            continue
        passed += 1
        answers = _answers(odds, points, rng)
        ends = [part.stop for part in parts(anchors)]
        end = next(end for end in ends if end == anchors or _given_up(parent, answers, end, params.tie))
        whole += end == anchors
        spent += end
    minibatches = 2 * params.minibatch
    return Fate(passed / trials, whole / trials, minibatches + spent / trials, minibatches + anchors * passed / trials)


def proposals_table(params: FastParams, trials: int) -> Iterator[str]:
    """A line for each kind of proposal: on the anchors of the first round, and of those that carry prompts over."""
    rooms = {params.room(params.budget, prompts)[0] for prompts in (1, params.carried)}
    for anchors in sorted(rooms):
        for kind, points in POINTS.items():
            found = fate(points, anchors, params, trials)
            yield (
                f"{anchors} anchors, a proposal {kind} its parent: {found.passed:.0%} pass the minibatch, "
                f"{found.whole:.0%} are scored on all anchors; {found.rollouts:.0f} rollouts a proposal, "
                f"{found.rollouts_before:.0f} if none is given up"
            )


def _answers(odds: list[float], points: float, rng: random.Random) -> list[float]:
    return [float(rng.random() < min(1.0, max(0.0, p + points))) for p in odds]


def _given_up(parent: list[float], answers: list[float], end: int, tie: float) -> bool:
    return hopeless(gains(parent[:end], answers[:end], tie), len(parent) - end)
