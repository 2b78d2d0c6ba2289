"""Thresholds: the distance from the reference that a window may reach by chance.

They come from a double bootstrap, repeated `drift.resamples` times: the reference, which is itself a sample, is
resampled, a window is drawn from the reference, and their distance is computed. The threshold is the quantile at which
any signal of a window exceeds its threshold at the stated rate (Bonferroni). Windows have different numbers of a
domain's requests, so thresholds are computed for several sizes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fst.config import DriftParams
from fst.files import document, write_atomic
from fst.monitoring.signals import Reference, distance

SIZES = (10, 20, 30, 50, 75, 100, 200)
_MOST = 400  # values of a column that are resampled; more would only take longer


@dataclass(frozen=True)
class Thresholds:
    """Thresholds by signal and size: `values` maps "domain/signal" and then the size of a column to the largest
    distance that is attributed to chance."""

    values: Mapping[str, Mapping[int, float]]

    def of(self, domain: str, signal: str, size: int) -> float | None:
        """Return the threshold for a column of this size: that of the next smaller calibrated size, which errs towards
        no alert. None for a column that is too small or unknown."""
        found = self.values.get(f"{domain}/{signal}", {})
        fitting = [known for known in found if known <= size]
        return found[max(fitting)] if fitting else None


def calibrate(reference: Reference, params: DriftParams) -> Thresholds:
    """Compute the thresholds of a reference; deterministic for `params.seed`."""
    columns = {key: column for key, column in reference.columns.items() if len(column) > 1}
    share = params.false_alarm_rate / max(1, len(columns))
    sizes = [size for size in SIZES if size <= 2 * params.window]
    found: dict[str, dict[int, float]] = {}
    for number, ((domain, signal), column) in enumerate(sorted(columns.items())):
        generator = np.random.default_rng([params.seed, number])
        kept = column if len(column) <= _MOST else generator.choice(column, _MOST, replace=False)
        found[f"{domain}/{signal}"] = {
            size: _quantile([_draw(generator, kept, size) for _ in range(params.resamples)], share) for size in sizes
        }
    return Thresholds(found)


def thresholds_of(reference: Reference, params: DriftParams, folder: Path) -> Thresholds:
    """As `calibrate`, cached in a file in `folder` under a hash of the reference and the parameters."""
    digest = hashlib.sha256(json.dumps(params.as_dict(), sort_keys=True).encode())
    for key, column in sorted(reference.columns.items()):
        digest.update(repr(key).encode() + column.tobytes())
    file = folder / f"thresholds-{digest.hexdigest()[:16]}.json"
    if file.exists():
        values = json.loads(file.read_text(encoding="utf-8"))
        return Thresholds({key: {int(size): limit for size, limit in of.items()} for key, of in values.items()})
    thresholds = calibrate(reference, params)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, document({key: {str(s): v for s, v in of.items()} for key, of in thresholds.values.items()}))
    return thresholds


def _draw(generator: np.random.Generator, column: np.ndarray, size: int) -> float:
    again = generator.choice(column, len(column))
    return distance(generator.choice(column, size), again)


def _quantile(scores: list[float], share: float) -> float:
    """The value that this share of the scores exceeds; extrapolated with a normal tail if that is less than two
    scores."""
    ordered = np.sort(scores)
    if share * len(ordered) >= 2:
        return float(np.quantile(ordered, 1 - share))
    from scipy.stats import norm

    inner = 2 / len(ordered)
    spread = (np.quantile(ordered, 1 - inner) - np.median(ordered)) / norm.ppf(1 - inner)
    return float(np.median(ordered) + spread * norm.ppf(1 - share))
