"""What the figures of runs are called: accuracy or mean reward, mean@n with its n, and whether they can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from fst.runs.view import RunView

ACCURACY = "accuracy"


def quantity(runs: Sequence[RunView]) -> str:
    """What the mean of rewards is: an accuracy only where every reward is 0 or 1."""
    return ACCURACY if all(run.binary for run in runs) else "mean reward"


def mean_at(runs: Sequence[RunView]) -> str:
    """`mean@n` with the n of the runs, in words."""
    counts = sorted({run.samples for run in runs if run.samples is not None})
    return " and ".join(f"mean@{n}" for n in counts) or "mean@n"


def unequal(runs: Sequence[RunView]) -> str:
    """A sentence where the runs of a domain were measured on unequal test problems; empty where they were not, or no
    record says."""
    hashes = {run.config["test_sha256"] for run in runs if "test_sha256" in run.config}
    sizes = {run.problems for run in runs if run.finished and run.problems is not None}
    if len(hashes) < 2 and len(sizes) < 2:
        return ""
    counted = f" ({', '.join(map(str, sorted(sizes)))} of them)" if len(sizes) > 1 else ""
    return f"The runs on {runs[0].domain} were measured on unequal test problems{counted} and cannot be compared."
