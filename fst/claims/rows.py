"""A line of the claims' table, its verdict, and what every judgement counts with.

Invariants (tests/claims/test_claims.py): K13 a verdict is that of the interval, not of the mean: a target is met where
the whole interval meets it, missed where the whole interval misses it, and in between it cannot be told; nor can it
without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from fst.claims.curves import Interval, Measure, Point
from fst.claims.evidence import Run

COUNTS: dict[str, Measure] = {
    "RL steps": lambda p: p.steps,
    "training rollouts": lambda p: p.train,
    "all rollouts": lambda p: p.learning,
}


@dataclass(frozen=True)
class Target:
    """A bound for a figure, as text ">= 3x"."""

    sign: Literal[">=", ">", "<="]
    bound: float
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}{self.unit}"

    def met(self, found: Interval) -> bool | None:
        """Whether a figure meets it with its whole interval; None where the interval holds both, or is none."""
        if found.low is None or found.high is None:
            return None
        low, high = self._meets(found.low), self._meets(found.high)
        return low if low == high else None

    def _meets(self, value: float) -> bool:
        return (
            value <= self.bound
            if self.sign == "<="
            else value > self.bound or (self.sign == ">=" and value == self.bound)
        )


@dataclass(frozen=True)
class Row:
    """A line of the table. `ours` is a mean over seeds in `unit`, `low` and `high` its interval; `each` are the seeds'
    own figures. `holds` is None where it cannot be told, and without a target."""

    claim: str
    domain: str
    measure: str
    unit: str
    ours: float | None
    low: float | None
    high: float | None
    paper: str
    target: str
    holds: bool | None
    seeds: tuple[int, ...]
    each: tuple[float | None, ...] = ()
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def times(count: Measure, theirs: Point, ours: Point, end: Point) -> float:
    """How many times more theirs is than ours. Neither counts less than one RL step of the run that ended at `end`:
    what is there before the first step took some."""
    least = max(1.0, count(end) / max(1.0, end.steps))
    return max(least, count(theirs)) / max(least, count(ours))


def row_of(
    claim: str, domain: str, runs: Sequence[Run], found: Interval, target: Target | None = None, **facts: Any
) -> Row:
    """A row with the verdict of its interval, unless `facts` have another for `holds`."""
    seeds = tuple(run.work.seed for run in runs)
    ours = None if math.isnan(found.mean) else found.mean
    judged = {"holds": target.met(found) if target else None, "target": str(target or "")}
    return Row(claim, domain, ours=ours, low=found.low, high=found.high, seeds=seeds, **{**judged, **facts})


def at_the_end(runs: Sequence[Run]) -> float:
    """Mean of the last validation accuracies."""
    return fmean(run.curve[-1].accuracy for run in runs)
