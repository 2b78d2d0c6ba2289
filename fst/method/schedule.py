"""Decides which training problems a run meets when, and the seeds of its draws. Pure: no model, no files, no state.

Invariants, each with a test: S1 the order is a permutation of the training problems that depends only on the seed;
S2 the batches of steps 0, 1, 2, ... go through that order over and over, without a gap; S3 a slow round of T steps has
the batches of those T steps; S4 anchors are the first different problems that the cycle's slow round will meet; S5 a
draw's seed depends on the run's seed, the purpose, the round and the number of the draw, and on nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fst.config import Params
from fst.data.types import Problem
from fst.types import Purpose

_STREAMS: dict[Purpose, int] = {"train": 1, "fast": 2, "eval": 3}
_ORDER = 4


@dataclass(frozen=True)
class Schedule:
    """The training problems in the order of a run: `batch_size` per RL step, `steps_per_cycle` (T) steps per slow
    round, and at most `most_anchors` problems to score prompts on per fast round."""

    problems: tuple[Problem, ...]
    batch_size: int
    steps_per_cycle: int
    most_anchors: int

    def batch(self, step: int) -> list[Problem]:
        """The problems of an RL step, counted from 0."""
        first = step * self.batch_size
        return [self.problems[(first + i) % len(self.problems)] for i in range(self.batch_size)]

    def batches(self, step: int) -> list[list[Problem]]:
        """The batches of a slow round that begins at this step."""
        return [self.batch(step + t) for t in range(self.steps_per_cycle)]

    def anchors(self, cycle: int) -> list[Problem]:
        """The problems of a cycle's fast round: those its slow round meets first, so that the prompts fit them."""
        upcoming = [problem for batch in self.batches(cycle * self.steps_per_cycle) for problem in batch]
        return list({problem.id: problem for problem in upcoming}.values())[: self.most_anchors]


def schedule_for(problems: Sequence[Problem], params: Params, seed: int) -> Schedule:
    """The schedule of a run on these training problems."""
    ordered = list(problems)
    random.Random(hash((seed, _ORDER)) % 2**62).shuffle(ordered)
    size, steps = params.slow.problems_per_step, params.loop.steps_per_cycle
    return Schedule(tuple(ordered), size, steps, params.fast.anchors)


def draw_seed(seed: int, purpose: Purpose, round_number: int, draw: int) -> int:
    """Return the seed of a run's `draw`-th batch of samples, in [0, 2**62); it is the same after a resume."""
    return hash((seed, _STREAMS[purpose], round_number, draw)) % 2**62
