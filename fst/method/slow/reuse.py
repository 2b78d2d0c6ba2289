"""Reuse: a fast round's rollouts under the prompts it chose enter the groups of the slow round that follows.

The fast round's anchors are the problems of the slow round's first steps, and its answers come from the weights that
those steps begin with. Only the rest of each group is sampled. Invariants, each with a test:

U1 a rollout is reused for its own problem and prompt only, so each prompt keeps its G/K rows of a group; U2 none is
reused twice, or after the slow round that follows its fast round; U3 of a prompt's G/K rows in a group at least one is
sampled, so K = G reuses nothing; U4 the loss divides by the probability that an answer was sampled with, which covers
the steps in between; U5 a rollout is counted and recorded once, when it is sampled, and a step's reward is the mean
over the rollouts that it sampled itself; U6 a run that was killed and resumed reuses what an uninterrupted run does,
and two processes reuse what one does; U7 where rewards are 0 or 1, selection changes how much a reused answer's cell
counts but not the direction of its gradient.

Selection bias: prompts were chosen by these very rewards, so the rewards of the best prompt are too high. Given its
reward, though, a reused answer is like any other. With p the chance of a reward of 1, p' that of a reused one and b a
baseline in [0, 1], the expected gradient of a reused row is c times that of a fresh one,

    c = (1 - b) p'/p + b (1 - p')/(1 - p),

which is positive and between the two ratios. So advantages are taken over the whole group, as without reuse, and U3
bounds the effect: at G/K = 2 a cell counts for at least half. `optimism` measures p' - p during a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from fst.data.types import Problem
from fst.method.slow.dealing import slot
from fst.types import Prompt, Rollout


@dataclass
class Spare:
    """Rollouts that may be reused, in the order in which they were sampled, by (problem, prompt)."""

    cells: dict[tuple[str, str], list[Rollout]] = field(default_factory=dict)

    def deal(self, problems: Sequence[Problem], prompts: Sequence[Prompt], group: int) -> list[Rollout | None]:
        """Return the rollout to reuse in each row of a step, over all processes' rows in order, or None if the row's
        answer must be sampled. Dealt rollouts are removed from the spare ones."""
        each = group // len(prompts)
        dealt: list[Rollout | None] = []
        for problem in problems:
            for place in range(group):
                cell = self.cells.get((problem.id, prompts[slot(place, group, len(prompts))].id))
                dealt.append(cell.pop(0) if cell and (place + 1) % each else None)
        return dealt

    def as_list(self) -> list[dict[str, Any]]:
        """Return the rollouts as dicts for a checkpoint; `spare_from` reads them back."""
        return [dataclasses.asdict(rollout) for cell in self.cells.values() for rollout in cell]


def spare(rollouts: Iterable[Rollout]) -> Spare:
    """Group rollouts by (problem, prompt) for reuse."""
    found = Spare()
    for rollout in rollouts:
        found.cells.setdefault((rollout.problem_id, rollout.prompt_id), []).append(rollout)
    return found


def spare_from(saved: Iterable[Mapping[str, Any]]) -> Spare:
    """Rebuild what `Spare.as_list` returned."""
    lists = ("tokens", "logprobs")
    return spare(Rollout(**{**values, **{key: tuple(values[key]) for key in lists}}) for values in saved)


def optimism(reused: Sequence[Rollout], sampled: Sequence[Rollout]) -> float | None:
    """Return by how much reused rewards exceed those of fresh answers to the same problems under the same prompts, as a
    mean over `reused`; None if that is empty. Raises KeyError unless each cell of `reused` is in `sampled` too (U3)."""
    fresh: dict[tuple[str, str], list[float]] = {}
    for rollout in sampled:
        fresh.setdefault((rollout.problem_id, rollout.prompt_id), []).append(rollout.reward)
    gaps = [rollout.reward - fmean(fresh[rollout.problem_id, rollout.prompt_id]) for rollout in reused]
    return fmean(gaps) if gaps else None
