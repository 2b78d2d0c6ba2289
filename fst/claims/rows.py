"""A line of the claims' table, and what every judgement counts with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from fst.claims.curves import Interval, Measure, Point
from fst.claims.evidence import Run

COUNTS: dict[str, Measure] = {
    "RL steps": lambda p: p.steps,
    "training rollouts": lambda p: p.train,
    "all rollouts": lambda p: p.learning,
}


@dataclass(frozen=True)
class Row:
    """A line of the table. `ours` is a mean over seeds in `unit`; `each` are the seeds' own figures."""

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


def row_of(claim: str, domain: str, runs: Sequence[Run], found: Interval, **facts: Any) -> Row:
    seeds = tuple(run.work.seed for run in runs)
    ours = None if math.isnan(found.mean) else found.mean
    return Row(claim, domain, ours=ours, low=found.low, high=found.high, seeds=seeds, **facts)


def at_the_end(runs: Sequence[Run]) -> float:
    """Mean of the last validation accuracies."""
    return fmean(run.curve[-1].accuracy for run in runs)
