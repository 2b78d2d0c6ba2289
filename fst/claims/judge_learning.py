"""C1 sample efficiency, C2 ceilings, C3 drift, C7 the four cells: what one domain shows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fst.claims.curves import (
    UNKNOWN,
    Curve,
    Interval,
    Measure,
    ceiling_interval,
    first_reach,
    interval,
    matched_kl_ratio,
    ratio_interval,
    running_max,
)
from fst.claims.evidence import Evidence, Run
from fst.claims.rows import COUNTS, Row, Target, at_the_end, row_of, times

RESAMPLES = 200


def efficiency(domain: str, evidence: Evidence) -> list[Row]:
    """How many times more RL alone takes to its running maximum than FST to the same accuracy. Where FST never gets
    there its whole run is counted, and the row says so."""
    ours, theirs = evidence.of("fst", domain), evidence.of("rl", domain)
    rows = []
    for name, count in COUNTS.items():
        ratios, missed = lead(ours, theirs, count)
        early = sum(_there_at_once(a.curve, max(running_max(b.curve))) for a, b in zip(ours, theirs, strict=True))
        best = fmean(max(running_max(run.curve)) for run in theirs)
        note = f"RL alone gets to {best:.1%}" + (f"; FST did not on {missed} seeds" if missed else "")
        note += f"; FST was there before its first RL step on {early} of {len(ours)} seeds" if early else ""
        found = ratio_interval(ratios)
        target = Target(">=", 3, "x") if name == "all rollouts" else None
        holds = None if target is None else False if missed else target.met(found)
        rows.append(
            row_of(
                "C1", domain, ours, found, measure=f"{name} of RL alone over FST's, to RL's running maximum", unit="x",
                paper="3.0x CodeIO, 3.0x HoVer-hard, 1.4x Math (steps)",
                target=target, holds=holds, each=tuple(ratios), note=note,
            )
        )  # fmt: skip
    return rows


def lead(ours: Sequence[Run], theirs: Sequence[Run], count: Measure) -> tuple[list[float], int]:
    """How many times more each of theirs takes to its running maximum than ours, of the same seed, to that accuracy;
    and how many of ours never get there, which count whole."""
    ratios, missed = [], 0
    for a, b in zip(ours, theirs, strict=True):
        level = max(running_max(b.curve))
        reached, needed = first_reach(a.curve, level), first_reach(b.curve, level)
        missed += reached is None
        ratios.append(times(count, needed or b.curve[-1], reached or a.curve[-1], b.curve[-1]))
    return ratios, missed


def _there_at_once(curve: Curve, level: float) -> bool:
    """Whether an accuracy is reached before the first RL step."""
    found = first_reach(curve, level)
    return found is not None and found.steps == 0


def ceiling(domain: str, evidence: Evidence) -> list[Row]:
    """Ceilings of the fitted sigmoids, as a difference that begins and ends where the two intervals are nearest and
    farthest; there is none where a fit is not identified."""
    rows = []
    ours, theirs = evidence.of("fst", domain), evidence.of("rl", domain)
    for name, count in COUNTS.items():
        a, in_a = ceiling_interval([_series(run.curve, count) for run in ours], RESAMPLES, 0)
        b, in_b = ceiling_interval([_series(run.curve, count) for run in theirs], RESAMPLES, 0)
        doubts = "; ".join(f"{arm}: {fit.doubt}" for arm, fit in (("fst", a), ("rl", b)) if fit.doubt)
        low = in_a.low - in_b.high if in_a.low is not None and in_b.high is not None else None
        high = in_a.high - in_b.low if in_a.high is not None and in_b.low is not None else None
        found = UNKNOWN if doubts else Interval(a.a - b.a, low, high)
        last = f"seen at the end {at_the_end(ours):.1%} and {at_the_end(theirs):.1%}"
        rows.append(
            row_of(
                "C2", domain, ours, found, measure=f"ceiling of FST less RL's, by {name}",
                unit="points", paper="+4.4 CodeIO, +7.7 HoVer-hard, +2.8 Math", target=Target(">", 0),
                note=f"FST {_span(in_a)}, RL {_span(in_b)}; {last}" + (f"; not identified: {doubts}" if doubts else ""),
            )
        )  # fmt: skip
    return rows


def _series(curve: Curve, count: Measure) -> list[tuple[float, float]]:
    """(C, accuracy), the last evaluation at each C."""
    return list({count(p): (count(p), p.accuracy) for p in curve}.values())


def _span(found: Interval) -> str:
    return f"{found.mean:.1%}" + ("" if found.low is None else f" [{found.low:.1%}, {found.high:.1%}]")


def drift_at_accuracy(domain: str, evidence: Evidence) -> list[Row]:
    """KL of FST over KL of RL at the same accuracies; with the evolved prompt in context, and with the seed prompt."""
    ours, theirs = evidence.of("fst", domain), evidence.of("rl", domain)
    ways: dict[str, Measure] = {
        "with the evolved prompt": lambda p: p.kl,
        "with the seed prompt": lambda p: p.kl_seed,
    }
    rows = []
    for name, kl in ways.items():
        each = [matched_kl_ratio(a.curve, b.curve, kl=kl) for a, b in zip(ours, theirs, strict=True)]
        known = [ratio for ratio in each if ratio is not None]
        shared = fmean(
            min(max(running_max(a.curve)), max(running_max(b.curve))) for a, b in zip(ours, theirs, strict=True)
        )
        rows.append(
            row_of(
                "C3", domain, ours, interval(known) if known else UNKNOWN,
                measure=f"KL of FST over RL's at matched accuracy, {name}", unit="x",
                paper="up to 70% lower", target=Target("<=", 0.3) if kl is ways["with the evolved prompt"] else None,
                each=tuple(each),
                note=f"accuracies up to {shared:.1%} are reached by both",
            )
        )  # fmt: skip
    return rows


def four_cells(domain: str, evidence: Evidence) -> list[Row]:
    """The joint cell of FST's runs, less the best of the other three."""
    runs = evidence.of("fst", domain)
    names = ("base/seed", "base/evolved", "trained/seed", "trained/evolved")
    each = [run.cells[names[3]] - max(run.cells[name] for name in names[:3]) for run in runs]
    means = ", ".join(f"{name} {fmean(run.cells[name] for run in runs):.1%}" for name in names)
    alone = ", ".join(
        f"{arm} alone {fmean(r.accuracy for r in evidence.of(arm, domain)):.1%}" for arm in ("rl", "gepa")
    )
    return [
        row_of(
            "C7", domain, runs, interval(each), measure="joint cell less the best of the others", unit="points",
            paper="HoVer 2.0, 11.6, 10.6, 21.2; CodeIO -, 25.1, 34.5, 43.3 (%)", target=Target(">", 0),
            each=tuple(each), note=f"{means}; {alone}",
        )
    ]  # fmt: skip
