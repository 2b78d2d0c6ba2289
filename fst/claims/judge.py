"""The claims, judged: a pure function from the evidence to rows. A claim that does not hold is a row like any other.

Every row: what was measured, ours with a 95% interval over seeds, what the paper has, our target, and whether it holds.
`holds` is None where it cannot be told: an interval on both sides of its target or none at all (K13 in
fst/claims/rows.py), a fit that is not identified, a figure that is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fst.claims.curves import Interval
from fst.claims.evidence import Evidence
from fst.claims.judge_learning import ceiling, drift_at_accuracy, efficiency, four_cells
from fst.claims.judge_sequence import interleaving
from fst.claims.judge_tasks import cold_start, continual, elsewhere, plasticity
from fst.claims.rows import Row, Target

MOST = 2 / 3  # of the rows, where a claim is about most domains
_MOSTLY = {"C1": Target(">=", 1.0), "C2": Target(">=", 0.0)}  # and about none being worse than this

_BY_DOMAIN: dict[str, Callable[[str, Evidence], list[Row]]] = {
    "C1": efficiency,
    "C2": ceiling,
    "C3": drift_at_accuracy,
    "C4": plasticity,
    "C7": four_cells,
    "C8": elsewhere,
    "C9": interleaving,
}


def judge(claims: Sequence[str], domains: Sequence[str], evidence: Evidence) -> list[Row]:
    """The rows of the claims, in their order."""
    rows: list[Row] = []
    for claim in claims:
        if claim in _BY_DOMAIN:
            for domain in domains:
                rows += _BY_DOMAIN[claim](domain, evidence)
        else:
            rows += continual(domains, evidence) if claim == "C5" else cold_start(evidence)
    return rows


@dataclass(frozen=True)
class Verdict:
    """A claim as a whole: of how many rows with a target it holds, and whether that is enough."""

    claim: str
    held: int
    rows: int
    holds: bool | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def sum_up(rows: Sequence[Row]) -> list[Verdict]:
    """C1 and C2 hold where two thirds of the rows meet the target and none, with its whole interval, is worse than RL
    alone; the others where every row with a target does. None where rows that cannot be told might turn it."""
    return [_verdict(claim, [r for r in rows if r.claim == claim and r.target]) for claim in _claims_of(rows)]


def _claims_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.claim for row in rows if row.target))


def _verdict(claim: str, rows: Sequence[Row]) -> Verdict:
    held = sum(row.holds is True for row in rows)
    open_ = sum(row.holds is None for row in rows)
    needed: int = len(rows)
    floors: list[bool | None] = []
    if claim in _MOSTLY:
        needed = math.ceil(MOST * len(rows))
        floors = [_above(_MOSTLY[claim], row) for row in rows]
    if held + open_ < needed or False in floors:
        return Verdict(claim, held, len(rows), False)
    return Verdict(claim, held, len(rows), None if held < needed or None in floors else True)


def _above(floor: Target, row: Row) -> bool | None:
    """Whether a row is not below the floor; None where that cannot be told."""
    return None if row.ours is None else floor.met(Interval(row.ours, row.low, row.high))
