"""The router: which domain a text belongs to, and how new it is. It knows what each domain's questions look like, and
nothing of their answers.

A text is a bag of hashed words and characters (scikit-learn); a domain is the mean of its questions. Novelty is one
minus the cosine to the nearest mean, so 0 is the most typical and 1 shares nothing. A text is unknown when it is
newer than all but a stated share of the reference questions were to the rest of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

FEATURES = 1 << 12
UNKNOWN_SHARE = 0.002  # of reference questions that may be called unknown
_MARGIN = 0.05  # novelty beyond the quantile, for questions a little rarer than the reference had


@dataclass(frozen=True)
class Route:
    """Where a text belongs: `domain` is the nearest one's name, "" for a router that knows none; `known` whether it is
    like that domain's questions; `novelty` in [0, 1]; `margin` how much nearer it is than the second domain."""

    domain: str
    known: bool
    novelty: float
    margin: float


class Router:
    """Built from a release's reference questions; deterministic."""

    def __init__(self, questions: Mapping[str, Sequence[str]]) -> None:
        self.domains = [name for name, texts in questions.items() if texts]
        self._means = np.zeros((len(self.domains), FEATURES))
        self._limits = np.zeros(len(self.domains))
        for row, name in enumerate(self.domains):
            vectors = embed(questions[name])
            total = vectors.sum(0)
            self._means[row] = _unit(total)
            # each question against the mean of the others, as a question yet to come would meet it
            own = 1 - (vectors * _unit(total - vectors)).sum(1)
            self._limits[row] = min(1.0, float(np.quantile(own, 1 - UNKNOWN_SHARE)) + _MARGIN)

    def route(self, text: str) -> Route:
        """One text."""
        return self.routes([text])[0]

    def routes(self, texts: Sequence[str]) -> list[Route]:
        """Several texts at once."""
        if not self.domains:
            return [Route("", False, 1.0, 0.0) for _ in texts]
        novelty = 1 - embed(texts) @ self._means.T
        order = np.argsort(novelty, axis=1, kind="stable")
        found = []
        for row, ranked in zip(novelty, order, strict=True):
            first = ranked[0]
            margin = float(row[ranked[1]] - row[first]) if len(ranked) > 1 else 1.0
            nearest = float(np.clip(row[first], 0.0, 1.0))
            found.append(Route(self.domains[first], bool(nearest <= self._limits[first]), nearest, margin))
        return found


def embed(texts: Sequence[str]) -> Any:
    """Unit vectors (texts, FEATURES): words, weighing as much as characters in threes."""
    return _unit(np.concatenate([_WORDS.transform(texts).toarray(), _CHARACTERS.transform(texts).toarray()], axis=1))


_WORDS = HashingVectorizer(n_features=FEATURES // 2, token_pattern=r"(?u)\S+", norm="l2", alternate_sign=False)
_CHARACTERS = HashingVectorizer(
    n_features=FEATURES // 2, analyzer="char_wb", ngram_range=(3, 3), norm="l2", alternate_sign=False
)


def _unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
