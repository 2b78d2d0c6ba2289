"""Learning curves compared: pure functions of figures.

Invariants (tests/claims/test_claims.py): K1 a first reach is the earliest point at or above a level; K2 the cost of an
accuracy is read off the running maximum, between points by straight lines, and never outside of what was seen; K3 an
interval over seeds holds its mean, and one seed has none; K4 a sigmoid that made the points is found again; K5 a curve
that has not bent yet, or has fewer points than the sigmoid has parameters, has no ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Point:
    """An evaluation. `steps` of RL, `train` rollouts, `learning` rollouts (train and fast), mean@n, KL in nats a token
    under the evaluated prompt, and under the seed prompt."""

    steps: float
    train: float
    learning: float
    accuracy: float
    kl: float
    kl_seed: float


Curve = Sequence[Point]
Measure = Callable[[Point], float]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval; without one (None) where there is a single seed."""

    mean: float
    low: float | None
    high: float | None


UNKNOWN = Interval(math.nan, None, None)  # of a figure that is not defined


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of a mean."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, None, None)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def ratio_interval(ratios: Sequence[float]) -> Interval:
    """The same of positive ratios, whose mean is the geometric one."""
    logs = interval([math.log(r) for r in ratios])
    return Interval(*(None if x is None else math.exp(x) for x in (logs.mean, logs.low, logs.high)))  # type: ignore[arg-type]


def running_max(curve: Curve) -> list[float]:
    return list(accumulate((p.accuracy for p in curve), max))


def first_reach(curve: Curve, level: float) -> Point | None:
    """The first evaluation with at least this accuracy."""
    return next((p for p in curve if p.accuracy >= level), None)


def kl_at(curve: Curve, level: float, kl: Measure = lambda p: p.kl) -> float | None:
    """KL where the running maximum of accuracy first reaches a level, by a straight line from the record before; None
    where it never does."""
    before: Point | None = None
    for point in curve:
        if before is not None and point.accuracy <= before.accuracy:
            continue
        if point.accuracy >= level:
            if before is None:
                return kl(point)
            share = (level - before.accuracy) / (point.accuracy - before.accuracy)
            return kl(before) + share * (kl(point) - kl(before))
        before = point
    return None


def matched_kl_ratio(ours: Curve, theirs: Curve, levels: int = 20, kl: Measure = lambda p: p.kl) -> float | None:
    """KL of ours over theirs, both as means over accuracies that both reach beyond where they began; None where there
    are none, or theirs never drifted."""
    low = max(ours[0].accuracy, theirs[0].accuracy)
    high = min(max(running_max(ours)), max(running_max(theirs)))
    if high <= low:
        return None
    grid = np.linspace(low, high, levels + 1)[1:]
    sums = [sum(kl_at(curve, float(level), kl) or 0.0 for level in grid) for curve in (ours, theirs)]
    return sums[0] / sums[1] if sums[1] > 0 else None


@dataclass(frozen=True)
class Ceiling:
    """R(C) = R0 + (A - R0) / (1 + (Cmid / C)^B): the ceiling A, why it is not to be trusted ("" if it is), and the mean
    reward over the last quarter of C."""

    a: float
    b: float
    mid: float
    doubt: str
    settled: float

    @property
    def at_least(self) -> float:
        """The ceiling, or what was seen last where nothing but the bound of 1 held it: a curve that jumps at once is no
        sigmoid, and its fit runs into the bound."""
        return min(self.a, self.settled) if self.a > 1 - 1e-3 else self.a


def fit_ceiling(points: Sequence[tuple[float, float]]) -> Ceiling:
    """Least squares; `points` are (C, reward), C = 0 gives R0, A is at most 1."""
    points = sorted(points)
    start = float(np.mean([r for c, r in points if c == points[0][0]]))
    rest = [(c, r) for c, r in points if c > 0]
    c, r = np.array([p[0] for p in rest]), np.array([p[1] for p in rest])
    best = None
    for mid in np.quantile(c, (0.1, 0.3, 0.6, 0.9)):
        for b in (1.0, 4.0):
            guess = (min(1.0, float(r.max())), b, float(mid))
            bounds = ([0.0, 0.2, float(c.min()) / 100], [1.0, 20.0, float(c.max()) * 100])
            guess = tuple(float(np.clip(g, low, high)) for g, low, high in zip(guess, *bounds, strict=True))  # type: ignore[assignment]
            found = least_squares(_residuals, guess, bounds=bounds, args=(c, r, start), x_scale=(1.0, 1.0, float(mid)))
            if best is None or found.cost < best.cost:
                best = found
    assert best is not None  # the loops are not empty
    a, b, mid = map(float, best.x)
    rise = a - start
    seen = float(r.max()) - start
    doubt = ""
    if rise < 0.02:
        doubt = "the curve does not rise"
    elif mid > float(c.max()) or seen < 0.7 * rise:
        doubt = "the curve has not bent yet"
    elif len(set(c)) < 3:
        doubt = "it was evaluated less than three times"
    return Ceiling(a, b, mid, doubt, float(r[c >= 0.75 * c.max()].mean()))


def _residuals(x: Sequence[float], c: np.ndarray, r: np.ndarray, start: float) -> np.ndarray:
    a, b, mid = x
    return np.asarray(start + (a - start) / (1 + (mid / c) ** b) - r)


def ceiling_interval(
    curves: Sequence[Sequence[tuple[float, float]]], resamples: int, seed: int
) -> tuple[Ceiling, Interval]:
    """The fit of all seeds' points together, and the bootstrap interval of its ceiling over seeds."""
    whole = fit_ceiling([p for curve in curves for p in curve])
    if len(curves) < 2:
        return whole, Interval(whole.a, None, None)
    rng = np.random.default_rng(seed)
    found = [
        fit_ceiling([p for i in rng.integers(len(curves), size=len(curves)) for p in curves[i]])
        for _ in range(resamples)
    ]
    low = np.quantile([fit.at_least for fit in found], (1 - CONFIDENCE) / 2)
    high = np.quantile([fit.a for fit in found], (1 + CONFIDENCE) / 2)
    return whole, Interval(whole.a, float(low), float(high))
