"""What the defaults are worth: FST with one thing changed, on rules that are there to choose by (the lab's `tune`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.table import Table

from fst.claims.curves import Interval, first_reach, interval
from fst.claims.evidence import Evidence, Run
from fst.claims.plan import VARIANTS, Size, Work
from fst.errors import ConfigError
from fst.tables import did_you_mean

SIZES = {
    "small": Size("ablations-small", (0,), 1, 3_072, 0, 0, 0, 0, 100),
    "full": Size("ablations", (0, 1, 2), 2, 6_144, 0, 0, 0, 0, 200),
}
DOMAINS = ("lab/drop_first+rotate_left", "lab/sub_one+keep_odd")  # the first two of `tune`
LEVEL = 0.8
LEARNED = 0.9  # validation accuracy up to which groups are asked for signal


@dataclass(frozen=True)
class Outcome:
    """A variant on a domain, means over seeds: test accuracy with its interval and seed by seed, KL in nats a token at
    the end, learning rollouts to a validation accuracy of LEVEL (of the seeds that got there) and how many did, and the
    share of groups with signal in the RL steps before a validation accuracy of LEARNED (of the seeds that took one)."""

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
    signal: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def chosen(variants: Sequence[str]) -> tuple[str, ...]:
    """The variants of these names, all without any. Raises ConfigError for an unknown one."""
    for name in variants:
        if name not in VARIANTS:
            raise ConfigError(f"--variants {name!r}: no such variant{did_you_mean(name, VARIANTS)}")
    return tuple(variants or VARIANTS)


def plan(domains: Sequence[str], seeds: Sequence[int], variants: Sequence[str]) -> tuple[Work, ...]:
    """All runs, a seed after the other."""
    return tuple(
        Work("run", "fst", domain, seed, variant=variant)
        for seed in seeds
        for domain in domains
        for variant in variants
    )


def outcomes(domains: Sequence[str], variants: Sequence[str], evidence: Evidence) -> list[Outcome]:
    """What each variant came to, by domain."""
    found = []
    for domain in domains:
        for variant in variants:
            runs = [run for run in evidence.of("fst", domain) if run.work.variant == variant]
            each = tuple(run.accuracy for run in runs)
            accuracy: Interval = interval(each)
            signal = [share for run in runs if (share := _signal(run)) is not None]
            reached = [point.learning for run in runs if (point := first_reach(run.curve, LEVEL))]
            found.append(
                Outcome(
                    variant, domain, accuracy.mean, accuracy.low, accuracy.high, each,
                    fmean(run.curve[-1].kl for run in runs), fmean(reached) if reached else None, len(reached),
                    tuple(run.work.seed for run in runs), fmean(signal) if signal else None,
                )
            )  # fmt: skip
    return found


def _signal(run: Run) -> float | None:
    """The share of groups with signal until the run has learned; None where that took no step."""
    until = int(point.steps) if (point := first_reach(run.curve, LEARNED)) else None
    shares = run.signal[:until]
    return fmean(shares) if shares else None


def table(found: Sequence[Outcome]) -> Table:
    """The outcomes for the terminal, one line per variant and domain."""
    page = Table("variant", "domain", "accuracy [95%]", "KL", f"rollouts to {LEVEL:.0%}", "groups with signal")
    for one in found:
        span = "" if one.low is None else f" [{one.low:.1%}, {one.high:.1%}]"
        spent = "never" if one.rollouts is None else f"{one.rollouts:,.0f} ({one.reached} of {len(one.seeds)} seeds)"
        signal = "no RL steps" if one.signal is None else f"{one.signal:.0%}"
        page.add_row(one.variant, one.domain, f"{one.accuracy:.1%}{span}", f"{one.kl:.3f}", spent, signal)
    return page
