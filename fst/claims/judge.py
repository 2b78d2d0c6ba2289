"""The claims, judged: a pure function from the evidence to rows. A claim that does not hold is a row like any other.

Every row: what was measured, ours with a 95% interval over seeds, what the paper has, our target, and whether it holds.
`holds` is None where it cannot be told (a fit that is not identified, a figure that is undefined).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fst.claims.evidence import Evidence
from fst.claims.judge_learning import ceiling, drift_at_accuracy, efficiency, four_cells
from fst.claims.judge_tasks import cold_start, continual, elsewhere, plasticity
from fst.claims.rows import Row

_BY_DOMAIN: dict[str, Callable[[str, Evidence], list[Row]]] = {
    "C1": efficiency,
    "C2": ceiling,
    "C3": drift_at_accuracy,
    "C4": plasticity,
    "C7": four_cells,
    "C8": elsewhere,
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
