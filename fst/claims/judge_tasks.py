"""C4 plasticity, C5 continual learning, C6 cold start, C8 other tasks: what going from task to task shows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fst.claims.curves import UNKNOWN, first_reach, interval, ratio_interval
from fst.claims.evidence import Evidence, Run
from fst.claims.plan import COLD, TRANSFER, stages
from fst.claims.rows import COUNTS, Row, Target, at_the_end, row_of, times

LEFT_ZERO = 0.05  # validation accuracy at which a cold start has begun


def plasticity(domain: str, evidence: Evidence) -> list[Row]:
    """Final accuracy on task B of fresh RL-only runs, over that of the run from the base with the same seed."""
    base = evidence.of("rl", TRANSFER, "transfer", "")
    rows = []
    for arm in ("fst", "rl"):
        runs = evidence.of("rl", TRANSFER, "transfer", f"{arm} {domain}")
        each = [run.accuracy / b.accuracy if b.accuracy else None for run, b in zip(runs, base, strict=True)]
        known = [ratio for ratio in each if ratio is not None]
        found = interval(known) if known else UNKNOWN
        rows.append(
            row_of(
                "C4", f"{domain}, then {TRANSFER}", runs, found,
                measure=f"accuracy of RL on task B from {arm} on A, over that from the base", unit="x",
                paper="FST about 1; RL near 0 on one arm", target=Target(">=", 0.95) if arm == "fst" else None,
                each=tuple(each),
                note=f"from the base {fmean(b.accuracy for b in base):.1%}",
            )
        )  # fmt: skip
    return rows


def continual(domains: Sequence[str], evidence: Evidence) -> list[Row]:
    """At the end of each stage, over the best that any run of any arm came to on that domain (means over seeds)."""
    domains = stages(domains)
    chain = ">".join(domains)
    rows = []
    for arm in ("fst", "rl", "gepa"):
        runs = evidence.of(arm, chain, "continual")
        for stage, domain in enumerate(domains):
            best = max(_best(stage, domain, arm, chain, evidence) for arm in ("fst", "rl", "gepa"))
            each = [_at(run, stage, stage) / best for run in runs]
            later = fmean(_at(run, len(domains) - 1, stage) for run in runs)
            rows.append(
                row_of(
                    "C5", f"{domain}, stage {stage + 1} of {len(domains)}", runs, interval(each),
                    measure=f"{arm}: accuracy at the end of the stage, over the stage's best", unit="x",
                    paper="FST near peak on each; RL 20.7 of 37.7 on stage 2",
                    target=Target(">=", 0.95) if arm == "fst" else None, each=tuple(each),
                    note=f"best {best:.1%}; at the end of the run {later:.1%} under the stage's own prompt; "
                    + _recovery(runs, stage, len(domains), best),
                )
            )  # fmt: skip
    return rows


def _best(stage: int, domain: str, arm: str, chain: str, evidence: Evidence) -> float:
    alone = [run.accuracy for run in evidence.of(arm, domain)]
    within = [_at(run, stage, stage) for run in evidence.of(arm, chain, "continual")]
    return max([fmean(found) for found in (alone, within) if found], default=0.0) or 1e-9


def _at(run: Run, ended: int, on: int) -> float:
    """Test accuracy on a stage's domain when a stage had ended."""
    return next(float(s["accuracy"]) for s in run.stages if s["ended"] == ended + 1 and s["on"] == on)


def _recovery(runs: Sequence[Run], stage: int, stages: int, best: float) -> str:
    """Rollouts after the switch until 80% of the best."""
    spent = []
    for run in runs:
        size = max(1, (len(run.curve) - 1) // stages)
        own = run.curve[1 + stage * size : 1 + (stage + 1) * size]
        begun = run.curve[stage * size].learning
        reached = first_reach(own, 0.8 * best)
        spent.append(None if reached is None else reached.learning - begun)
    known = [s for s in spent if s is not None]
    if not known:
        return "80% of it never reached"
    return f"80% of it after {fmean(known):,.0f} rollouts" + (
        f" ({len(known)} of {len(spent)} seeds)" if len(known) < len(spent) else ""
    )


def cold_start(evidence: Evidence) -> list[Row]:
    """Learning rollouts until validation accuracy leaves zero. A run of RL that never does counts whole, so the ratio
    is a lower bound and cannot miss the target; one of FST has no figure and fails the claim."""
    ours, theirs = evidence.of("fst", COLD), evidence.of("rl", COLD)
    zero = evidence.results("zero", "base", COLD)[0]
    rows = []
    for name, count in COUNTS.items():
        each: list[float | None] = []
        stuck = failed = 0
        for a, b in zip(ours, theirs, strict=True):
            mine, other = first_reach(a.curve, LEFT_ZERO), first_reach(b.curve, LEFT_ZERO)
            stuck, failed = stuck + (other is None), failed + (mine is None)
            each.append(times(count, other or b.curve[-1], mine, b.curve[-1]) if mine else None)
        known = [ratio for ratio in each if ratio is not None]
        found = ratio_interval(known) if known else UNKNOWN
        target = Target(">=", 5, "x") if name == "all rollouts" else None
        holds = None if target is None else False if failed else target.met(found)
        if stuck and not failed:
            holds = holds or None
        note = f"base: {zero['reward']:.4f} in {zero['rollouts']} rollouts; "
        note += f"at the end FST {at_the_end(ours):.1%}, RL {at_the_end(theirs):.1%}"
        note += f"; RL never left zero on {stuck} of {len(theirs)} seeds" if stuck else ""
        note += f"; FST never did on {failed}" if failed else ""
        note += " (so the ratio is a lower bound)" if stuck and known else ""
        rows.append(
            row_of(
                "C6", COLD, ours, found, measure=f"{name} until accuracy reaches {LEFT_ZERO:.0%}, RL alone over FST",
                unit="x", paper="step ~250 against ~50", target=target, holds=holds, each=tuple(each), note=note,
            )
        )  # fmt: skip
    return rows


def elsewhere(domain: str, evidence: Evidence) -> list[Row]:
    """Other rules in their own words, by kind: FST's weights less RL's, seed by seed."""
    arms = {arm: evidence.results("following", arm, domain) for arm in ("fst", "rl", "base")}
    runs = evidence.of("fst", domain)
    rows = []
    for kind in arms["base"][0]:
        each = [a[kind] - b[kind] for a, b in zip(arms["fst"], arms["rl"], strict=True)]
        means = ", ".join(f"{arm} {fmean(r[kind] for r in results):.1%}" for arm, results in arms.items())
        rows.append(
            row_of(
                "C8", f"{domain}, on rules: {kind}", runs, interval(each),
                measure="accuracy of FST less RL's", unit="points", paper="FST at least RL",
                target=Target(">=", 0), each=tuple(each), note=means,
            )
        )  # fmt: skip
    return rows
