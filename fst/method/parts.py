"""The two parts of a sequential arm: `rl_gepa` and `gepa_rl` take the rounds of `fst` one kind after the other. Pure.

Each kind may spend the share of the run's rollouts that it has in a cycle of `fst`. GEPA levels off, so fast rounds
also end after as many rounds as `fst` has cycles; the rollouts that they leave in `gepa_rl` go to RL.

Invariants (tests/method/test_parts.py): Q1 an arm of one part stays in it; Q2 the second part begins once the first has
spent its share, or its rounds, and no later state leads back; Q3 both end within the run's rollouts and one slow round;
Q4 a fast round has no more than its part has left.
"""

from __future__ import annotations

from dataclasses import dataclass

from fst.config import Params
from fst.types import SEQUENTIAL, Arm, Budget


@dataclass(frozen=True)
class Parts:
    """What an arm may spend: `limit` rollouts in all, `slow` and `fast` of them in its parts, and at most `fast_rounds`
    fast rounds. In arms of one part, `slow` and `fast` both equal `limit`."""

    arm: Arm
    limit: int
    slow: int
    fast: int
    fast_rounds: int

    @property
    def sequential(self) -> bool:
        """Whether the arm takes one kind of round after the other."""
        return self.arm in SEQUENTIAL

    def part(self, spent: Budget, fast_rounds: int) -> int:
        """Return the current part, 0 or 1, given the rollouts spent and the number of completed fast rounds."""
        if self.arm == "rl_gepa":
            return int(spent.train >= self.slow)
        return int(self.arm == "gepa_rl" and (spent.fast >= self.fast or fast_rounds >= self.fast_rounds))

    def over(self, spent: Budget, fast_rounds: int) -> bool:
        """Whether a sequential arm has ended; False for other arms."""
        last = self.arm == "rl_gepa" and fast_rounds >= self.fast_rounds
        return self.sequential and (last or spent.learning >= self.limit)

    def left(self, spent: Budget) -> int:
        """Rollouts that the next fast round may spend."""
        left = self.limit - spent.learning
        return min(left, self.fast - spent.fast) if self.arm == "gepa_rl" else left

    def says(self) -> str:
        """Describe the parts in their order; empty for an arm of one part."""
        slow, fast = f"{self.slow:,} of RL", f"{self.fast:,} of fast rounds, {self.fast_rounds} at most"
        return {"rl_gepa": f"{slow}, then {fast}", "gepa_rl": f"{fast}, then the rest of RL"}.get(self.arm, "")


def parts_of(arm: Arm, params: Params) -> Parts:
    """The parts of an arm under these parameters."""
    limit, cycle = params.rollout_budget, params.rollouts_per_cycle
    if arm not in SEQUENTIAL:
        return Parts(arm, limit, limit, limit, params.loop.cycles)
    fast = limit * params.fast.budget // cycle
    return Parts(arm, limit, limit - fast, fast, -(-limit // cycle))


def planned(arm: Arm, params: Params) -> tuple[int, int]:
    """Return the RL steps and cycles that an arm takes under these parameters, unless something ends it sooner. For
    `rl` a cycle is `loop.steps_per_cycle` steps; in a sequential arm it is one fast round, or that many steps."""
    parts, loop = parts_of(arm, params), params.loop
    if not parts.sequential and arm != "rl":
        return loop.cycles * loop.steps_per_cycle, loop.cycles
    steps = parts.slow // params.rollouts_per_step
    return steps, parts.fast_rounds * parts.sequential + -(-steps // loop.steps_per_cycle)
