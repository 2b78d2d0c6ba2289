"""C9 interleaving: FST against its two channels one after the other, on as many rollouts."""

from __future__ import annotations

from statistics import fmean

from fst.claims.curves import interval, ratio_interval
from fst.claims.evidence import Evidence
from fst.claims.judge_learning import lead
from fst.claims.rows import COUNTS, Row, Target, row_of
from fst.types import SEQUENTIAL


def interleaving(domain: str, evidence: Evidence) -> list[Row]:
    """FST less the better sequence, seed by seed. The better one is chosen by its mean over seeds, per domain, so the
    comparison favours neither FST nor a lucky seed."""
    ours = evidence.of("fst", domain)
    sequences = {arm: evidence.of(arm, domain) for arm in SEQUENTIAL}
    better = max(sequences, key=lambda arm: fmean(run.accuracy for run in sequences[arm]))
    theirs = sequences[better]
    each = [a.accuracy - b.accuracy for a, b in zip(ours, theirs, strict=True)]
    means = {"fst": ours, **sequences}
    note = ", ".join(f"{arm} {fmean(r.accuracy for r in runs):.1%}" for arm, runs in means.items())
    ratios, missed = lead(ours, theirs, COUNTS["all rollouts"])
    late = f"; FST did not on {missed} of {len(ours)} seeds" if missed else ""
    return [
        row_of(
            "C9", domain, ours, interval(each), Target(">", 0), measure=f"accuracy of FST less {better}'s",
            unit="points", paper="not asked", each=tuple(each), note=note,
        ),
        row_of(
            "C9", domain, ours, ratio_interval(ratios), unit="x", paper="not asked", each=tuple(ratios),
            measure=f"all rollouts of {better} over FST's, to {better}'s running maximum",
            note=f"validation{late}",
        ),
    ]  # fmt: skip
