"""The watched signals, and their distance between a window of traffic and what the release was measured on.

A signal is a column of numbers: the `novelty` of every question; and, per domain, the `reward` of its scored answers,
the `length` of its answers in tokens, and their `failure` (1 for an answer that was cut off or empty). Reference and
live traffic are counted alike: an answer that ran into the limit that the release was measured with is a failure in
both, and an answer cut off by a client's own, lower limit counts for neither length nor failure. A score is the
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
from fst.traffic.log import Exchange, Request

_WORSE = {"novelty": 1, "reward": -1, "length": 0, "failure": 1}  # 1: more is worse; -1: less is worse; 0: both are
Column = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reference:
    """The validation traffic of a release, by signal. `columns` maps (domain, signal) to a vector of values; the domain
    is "" for a signal of all requests. `questions` maps each domain to its distinct questions. `most_tokens` is the
    limit on an answer's tokens that it was measured with, None if the release does not state it."""

    columns: Mapping[tuple[str, str], Column]
    questions: Mapping[str, tuple[str, ...]]
    most_tokens: int | None = None

    @property
    def domains(self) -> list[str]:
        return list(self.questions)


def reference_of(rows: Mapping[str, Any], most_tokens: int | None = None) -> Reference:
    """Build the reference from a bundle's reference.json (`rows`); see Reference for `most_tokens`. The novelty of a
    question is measured against the other questions of its domain, as a live question is not in the reference
    either."""
    questions = {d: tuple(dict.fromkeys(row["question"] for row in entry["rows"])) for d, entry in rows.items()}
    columns: dict[tuple[str, str], Column] = {}
    novelty = Router(questions).own.values()
    columns["", "novelty"] = np.concatenate(list(novelty)) if novelty else np.zeros(0)
    for domain, entry in rows.items():
        found = entry["rows"]
        columns[domain, "reward"] = _softened([row["reward"] for row in found])
        columns[domain, "length"] = np.array([float(row["tokens"]) for row in found])
        failed = [_failed(_finish(row, most_tokens), row["response"]) for row in found]
        columns[domain, "failure"] = _softened(failed)
    return Reference(columns, questions, most_tokens)


def columns_of(window: Sequence[Exchange], most_tokens: int | None = None) -> dict[tuple[str, str], Column]:
    """Build the columns of a window, by (domain, signal), to compare with a reference of the same `most_tokens`.
    Requests of an unknown domain count only for novelty."""
    columns = {("", "novelty"): np.array([e.request.novelty for e in window])}
    for domain in sorted({e.request.domain for e in window if e.request.domain}):
        mine = [e for e in window if e.request.domain == domain]
        rewards = [e.feedback.reward for e in mine if e.feedback and e.feedback.reward is not None]
        columns[domain, "reward"] = np.array(rewards, dtype=float)
        whole = [e.request for e in mine if not _cut_by_client(e.request, most_tokens)]
        columns[domain, "length"] = np.array([float(request.tokens[1]) for request in whole])
        columns[domain, "failure"] = np.array([_failed(request.finish, request.response) for request in whole])
    return columns


def distance(current: Column, reference: Column) -> float:
    """Wasserstein distance of two columns, in standard deviations of the reference (at least 0.001)."""
    return float(wasserstein_distance(reference, current) / max(np.std(reference), 0.001))


def is_worse(signal: str, current: Column, reference: Column) -> bool:
    """Whether the window's mean differs from the reference's in the direction that is worse for this signal."""
    return _WORSE[signal] == 0 or _WORSE[signal] * (current.mean() - reference.mean()) > 0


def mix_distance(current: Sequence[str], before: Sequence[str]) -> float:
    """Jensen-Shannon distance (natural logarithm) of two lists of domain names; 0 when either is empty."""
    if not before or not current:
        return 0.0
    names = sorted({*before, *current})
    return float(jensenshannon(*([mix.count(name) / len(mix) for name in names] for mix in (before, current))))


def _failed(finish: str, response: str) -> float:
    """1 for an answer that was cut off or empty, 0 for any other."""
    return float(finish != "stop" or not response.strip())


def _finish(row: Mapping[str, Any], most_tokens: int | None) -> str:
    """How an answer in the reference ended; inferred from its length in releases that do not record it."""
    known = row.get("finish")
    return known or ("length" if most_tokens is not None and row["tokens"] >= most_tokens else "stop")


def _cut_by_client(request: Request, most_tokens: int | None) -> bool:
    return request.finish == "length" and most_tokens is not None and request.tokens[1] < most_tokens


def _softened(values: Sequence[float]) -> Column:
    """Add one 0 and one 1 to the values; otherwise the first exception from a constant column would be infinitely far
    away."""
    return np.array([*values, 0.0, 1.0])
