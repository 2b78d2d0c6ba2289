"""The signals that are watched, and the distance of a window of traffic from what the release was measured on.

A signal is a column of numbers: the `novelty` of every question; and, per domain, the `reward` of its scored answers,
the `length` of its answers in tokens, and their `failure` (1 for an answer that was cut off or empty). Its score is the
Wasserstein distance of the window's column from the reference's, in standard deviations of the reference. The `mix` of
domains is scored too (Jensen-Shannon distance), against the preceding windows, since no release states an expected mix.
Both are defined as in Evidently, so that its reports show the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from fst.serving.router import Router
from fst.traffic.log import Exchange

_WORSE = {"novelty": 1, "reward": -1, "length": 0, "failure": 1}  # 1: more is worse, -1: less is; 0: either is
Column = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reference:
    """The validation traffic of a release, by signal. `columns` maps (domain, signal) to a vector of values; the domain
    is "" for a signal of all requests. `questions` maps each domain to its distinct questions."""

    columns: Mapping[tuple[str, str], Column]
    questions: Mapping[str, tuple[str, ...]]

    @property
    def domains(self) -> list[str]:
        return list(self.questions)


def reference_of(rows: Mapping[str, Any]) -> Reference:
    """The reference that a bundle's reference.json (`rows`) holds. The novelty of a question is measured against half
    of its domain's other questions, since a live question is not among the reference either."""
    questions = {d: tuple(dict.fromkeys(row["question"] for row in entry["rows"])) for d, entry in rows.items()}
    columns: dict[tuple[str, str], Column] = {}
    novelty = [_novelty_to_others(texts) for texts in questions.values() if texts]
    columns["", "novelty"] = np.concatenate(novelty) if novelty else np.zeros(0)
    for domain, entry in rows.items():
        found = entry["rows"]
        columns[domain, "reward"] = _softened([row["reward"] for row in found])
        columns[domain, "length"] = np.array([float(row["tokens"]) for row in found])
        columns[domain, "failure"] = _softened([float(not row["response"].strip()) for row in found])
    return Reference(columns, questions)


def columns_of(window: Sequence[Exchange]) -> dict[tuple[str, str], Column]:
    """The columns of a window, by (domain, signal). Requests of an unknown domain count for novelty only."""
    columns = {("", "novelty"): np.array([e.request.novelty for e in window])}
    for domain in sorted({e.request.domain for e in window if e.request.domain}):
        mine = [e for e in window if e.request.domain == domain]
        rewards = [e.feedback.reward for e in mine if e.feedback and e.feedback.reward is not None]
        columns[domain, "reward"] = np.array(rewards, dtype=float)
        columns[domain, "length"] = np.array([float(e.request.tokens[1]) for e in mine])
        failed = [e.request.finish != "stop" or not e.request.response.strip() for e in mine]
        columns[domain, "failure"] = np.array(failed, dtype=float)
    return columns


def distance(current: Column, reference: Column) -> float:
    """Wasserstein distance of two columns, in standard deviations of the reference (at least 0.001)."""
    return float(wasserstein_distance(reference, current) / max(np.std(reference), 0.001))


def is_worse(signal: str, current: Column, reference: Column) -> bool:
    """Whether the window's mean differs from the reference's in the direction that is a loss for the signal."""
    return _WORSE[signal] == 0 or _WORSE[signal] * (current.mean() - reference.mean()) > 0


def mix_distance(current: Sequence[str], before: Sequence[str]) -> float:
    """Jensen-Shannon distance (natural logarithm) of two lists of domain names; 0 when either is empty."""
    if not before or not current:
        return 0.0
    names = sorted({*before, *current})
    return float(jensenshannon(*([mix.count(name) / len(mix) for name in names] for mix in (before, current))))


def _novelty_to_others(texts: Sequence[str]) -> Column:
    """The novelty of each question to a router that was built from the other half of them."""
    halves = [texts[i::2] for i in (0, 1)]
    found = np.zeros(len(texts))
    for i, half in enumerate(halves):
        routes = Router({"others": halves[1 - i] or half}).routes(list(half))
        found[i::2] = [route.novelty for route in routes]
    return found


def _softened(values: Sequence[float]) -> Column:
    """The values with one 0 and one 1 added: without them, the first exception from a constant column would be
    infinitely far away."""
    return np.array([*values, 0.0, 1.0])
