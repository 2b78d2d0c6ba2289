"""Fast-Slow Training (arXiv 2605.12484), the algorithm: alternate two learners of one reward.

Each cycle, a fast round evolves the prompts under the current slow weights; then a slow round takes T RL steps
with every problem's group of rollouts dealt over the K prompts. The arms `rl` and `gepa` are the same loop with
one of the two rounds left out, `rl_gepa` and `gepa_rl` take all rounds of one kind before those of the other
(fst/method/parts.py); the steps of `distill` are those of fst/method/distill/weights.py. A run resumes at a round: the
checkpoint before it has everything it needs.
"""

from __future__ import annotations

from collections.abc import Iterator

from fst.method.fast.round import fast_round
from fst.method.learner import Learner
from fst.method.run import ranks
from fst.method.run.checkpoint import save
from fst.types import Arm, Purpose

ROUNDS: dict[Arm, tuple[tuple[Purpose, ...], ...]] = {  # a tuple per part, repeated until the part ends
    "fst": (("fast", "train"),),
    "rl": (("train",),),
    "gepa": (("fast",),),
    "rl_gepa": (("train",), ("fast",)),
    "gepa_rl": (("fast",), ("train",)),
    "distill": (("train",),),
}


def rounds(learner: Learner) -> Iterator[Purpose]:
    """The rounds of the arm, each yielded once it is complete and saved, to the end of its cycles or of its rollout
    budget, whichever comes first; `rl` has no cycles of its own and goes on until it has spent what `fst` might."""
    if learner.round == 0:
        learner.evaluate()
    while not learner.finished:
        order = ROUNDS[learner.arm][learner.part]
        purpose = learner.decide(order)
        if purpose == "fast":
            evolve_prompts(learner)
        else:
            train_adapter(learner)
        if purpose == order[-1]:
            learner.cycle += 1
        learner.evaluate()
        save(learner)
        yield purpose
    learner.conclude()


def evolve_prompts(learner: Learner) -> None:
    """Fast weights: from the carried population, re-scored under the current slow weights."""
    with learner.in_round("fast") as account:
        anchors = learner.anchors()
        found = learner.once(lambda: fast_round(learner.evolver, learner.carried, anchors, learner.fast_plan()))
        learner.adopt(found)
        ranks.agree([prompt.id for prompt in found.population.prompts], "the prompts of a fast round")
        account.fast(found)


def train_adapter(learner: Learner) -> None:
    """Slow weights: T steps on fresh problems, the population frozen."""
    with learner.in_round("train") as account:
        for problems in learner.batches():
            result, rollouts = learner.train_step(problems)
            account.step(learner.step, result, rollouts)
