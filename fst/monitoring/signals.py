"""What is watched, and how far a window of traffic is from what the release was measured on.

A signal is a column: `novelty` of what is asked, over all requests; and of each domain the `reward` of its scored
answers, the `length` of its answers in tokens, and the `failure` of them (cut off, or empty). Its score is evidently's
distance of the window's column from the reference's (Wasserstein, in the reference's standard deviations). The domain
`mix` has a score too (Jensen-Shannon), against the traffic before it, since no release says what mix to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from evidently.legacy.calculations.stattests import jensenshannon_stat_test, wasserstein_stat_test
from evidently.legacy.core import ColumnType

from fst.serving.router import Router
from fst.traffic.log import Exchange

PER_DOMAIN = ("reward", "length", "failure")
_WORSE = {"novelty": 1, "reward": -1, "length": 0, "failure": 1}  # the direction that counts; 0: either
Column = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reference:
    """A release's own validation traffic, by signal. `columns` maps (domain, signal) to values, domain "" for all."""

    columns: Mapping[tuple[str, str], Column]
    questions: Mapping[str, tuple[str, ...]]

    @property
    def domains(self) -> list[str]:
        return list(self.questions)


def reference_of(rows: Mapping[str, Any]) -> Reference:
    """From a bundle's reference.json. Novelty is that of questions to the rest of their domain, as live ones have
    it."""
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
    """The same of a window. Requests of no known domain count for novelty only."""
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
    """Evidently's normed Wasserstein distance of two columns."""
    score, _ = wasserstein_stat_test.func(pd.Series(reference), pd.Series(current), ColumnType.Numerical, 0.1)
    return float(score)


def is_worse(signal: str, current: Column, reference: Column) -> bool:
    """Whether the window lies on the side of the reference that matters for the signal."""
    return _WORSE[signal] == 0 or _WORSE[signal] * (current.mean() - reference.mean()) > 0


def mix_distance(current: Sequence[str], before: Sequence[str]) -> float:
    """Evidently's Jensen-Shannon distance of two mixes of domains."""
    if not before or not current:
        return 0.0
    score, _ = jensenshannon_stat_test.func(pd.Series(before), pd.Series(current), ColumnType.Categorical, 0.1)
    return float(score)


def _novelty_to_others(texts: Sequence[str]) -> Column:
    """Each question's novelty to a router that was built from the other half of them."""
    halves = [texts[i::2] for i in (0, 1)]
    found = np.zeros(len(texts))
    for i, half in enumerate(halves):
        routes = Router({"others": halves[1 - i] or half}).routes(list(half))
        found[i::2] = [route.novelty for route in routes]
    return found


def _softened(values: Sequence[float]) -> Column:
    """With one more of either extreme: a column that never varied would call its first exception infinitely far."""
    return np.array([*values, 0.0, 1.0])
