"""What the defaults are worth: FST with one thing changed, on rules that are there to choose by (the lab's `tune`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.table import Table

from fst.claims.curves import Interval, first_reach, interval
from fst.claims.evidence import Evidence
from fst.claims.plan import VARIANTS, Size, Work

SIZES = {
    "small": Size("ablations-small", (0,), 1, 3_072, 0, 0, 0, 0, 100),
    "full": Size("ablations", (0, 1, 2), 2, 6_144, 0, 0, 0, 0, 200),
}
DOMAINS = ("lab/drop_first+rotate_left", "lab/sub_one+keep_odd")  # the first two of `tune`
LEVEL = 0.8


@dataclass(frozen=True)
class Outcome:
    """A variant on a domain, means over seeds: test accuracy with its interval and seed by seed, KL in nats a token at
    the end, learning rollouts to a validation accuracy of LEVEL (of the seeds that got there) and how many did."""

    variant: str
    domain: str
    accuracy: float
    low: float | None
    high: float | None
    each: tuple[float, ...]
    kl: float
    rollouts: float | None
    reached: int
    seeds: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(domains: Sequence[str], seeds: Sequence[int]) -> tuple[Work, ...]:
    """All runs, a seed after the other."""
    return tuple(
        Work("run", "fst", domain, seed, variant=variant)
        for seed in seeds
        for domain in domains
        for variant in VARIANTS
    )


def outcomes(domains: Sequence[str], evidence: Evidence) -> list[Outcome]:
    """What each variant came to, by domain, the default first."""
    found = []
    for domain in domains:
        for variant in VARIANTS:
            runs = [run for run in evidence.of("fst", domain) if run.work.variant == variant]
            each = tuple(run.accuracy for run in runs)
            accuracy: Interval = interval(each)
            reached = [point.learning for run in runs if (point := first_reach(run.curve, LEVEL))]
            found.append(
                Outcome(
                    variant, domain, accuracy.mean, accuracy.low, accuracy.high, each,
                    fmean(run.curve[-1].kl for run in runs), fmean(reached) if reached else None, len(reached),
                    tuple(run.work.seed for run in runs),
                )
            )  # fmt: skip
    return found


def table(found: Sequence[Outcome]) -> Table:
    """The outcomes for the terminal, one line per variant and domain."""
    page = Table("variant", "domain", "accuracy [95%]", "KL", f"rollouts to {LEVEL:.0%}")
    for one in found:
        span = "" if one.low is None else f" [{one.low:.1%}, {one.high:.1%}]"
        spent = "never" if one.rollouts is None else f"{one.rollouts:,.0f} ({one.reached} of {len(one.seeds)} seeds)"
        page.add_row(one.variant, one.domain, f"{one.accuracy:.1%}{span}", f"{one.kl:.3f}", spent)
    return page
