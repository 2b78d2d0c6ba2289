"""The router: which domain a text belongs to, and how new it is. It knows what each domain's questions look like, and
nothing of their answers.

A text is a bag of its words and of what follows what (scikit-learn's hashing; numbers are all alike). A domain is how
common each of them is among its questions. Novelty is how little of a text a domain accounts for, so 0 is the most
typical and 1 shares nothing. A text is unknown when it is newer than all but a stated share of the reference questions
were to the rest of theirs. How well this does, and what else was tried: `fst bench router`, docs/benchmarks.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

FEATURES = 1 << 18
COORDINATES = 1 << 12
UNKNOWN_SHARE = 0.002  # of reference questions that may be called unknown
FOLDS = 10  # parts of the reference that are held out of it in turn
_SLACK = 0.02  # novelty beyond the quantile, for questions a little rarer than the reference had
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+|\d+|[^\w\s]")  # a character of Chinese is a word

Array = np.ndarray[Any, Any]
Novelty = Callable[[Sequence[str]], Array]  # texts -> a number in [0, 1] each
Measure = Callable[[Sequence[str]], Novelty]  # from the questions of a domain


@dataclass(frozen=True)
class Route:
    """Where a text belongs: `domain` is the nearest one's name, "" for a router that knows none; `known` whether it is
    like that domain's questions; `novelty` in [0, 1]; `margin` how much nearer it is than the second domain."""

    domain: str
    known: bool
    novelty: float
    margin: float


def unaccounted(questions: Sequence[str]) -> Novelty:
    """The share of a text's features that a domain with these questions does not account for. A feature that d of the
    questions have counts as d / (d + 1), the chance (Laplace's) to meet it again."""
    found = features(questions)
    known = np.asarray((found > 0).sum(0)).ravel()
    seen = known / (known + 1)

    def novelty(texts: Sequence[str]) -> Array:
        counts = features(texts)
        total = np.asarray(counts.sum(1)).ravel()
        return 1 - np.asarray(counts @ seen).ravel() / np.maximum(total, 1e-12)

    return novelty


class Router:
    """Built from a release's reference questions; deterministic."""

    def __init__(self, questions: Mapping[str, Sequence[str]], measure: Measure = unaccounted) -> None:
        self.domains = [name for name, texts in questions.items() if texts]
        self._novelty = [measure(questions[name]) for name in self.domains]
        self._limits = np.array([_limit(held_out(questions[name], measure)) for name in self.domains])

    def route(self, text: str) -> Route:
        """One text."""
        return self.routes([text])[0]

    def routes(self, texts: Sequence[str]) -> list[Route]:
        """Several texts at once. The nearest domain is the one within whose limit a text is by the most."""
        if not self.domains or not texts:
            return [Route("", False, 1.0, 0.0) for _ in texts]
        novelty = np.stack([of(texts) for of in self._novelty], axis=1)
        beyond = novelty - self._limits
        order = np.argsort(beyond, axis=1, kind="stable")
        found = []
        for new, over, ranked in zip(novelty, beyond, order, strict=True):
            first = ranked[0]
            margin = float(over[ranked[1]] - over[first]) if len(ranked) > 1 else 1.0
            found.append(
                Route(self.domains[first], bool(over[first] <= 0), float(np.clip(new[first], 0.0, 1.0)), margin)
            )
        return found


def held_out(questions: Sequence[str], measure: Measure = unaccounted) -> Array:
    """The novelty of each question to most of the others, as a question yet to come would have it."""
    if len(questions) < 2:
        return np.ones(len(questions))
    folds = min(FOLDS, len(questions))
    found = np.zeros(len(questions))
    for i in range(folds):
        others = [text for number, text in enumerate(questions) if number % folds != i]
        found[i::folds] = measure(others)(questions[i::folds])
    return found


def features(texts: Sequence[str]) -> Any:
    """A sparse matrix (texts, FEATURES) of how often each feature is in each text, dampened by the logarithm."""
    counts = _VECTORS.transform(texts)
    counts.data = np.log1p(counts.data)
    return counts


def embed(texts: Sequence[str]) -> Array:
    """Unit vectors (texts, COORDINATES) in which texts that are nearly the same are close, their numbers included:
    words, weighing as much as characters in threes."""
    parts = [vectors.transform(texts).toarray() for vectors in (_WORDS, _CHARACTERS)]
    found = np.concatenate(parts, axis=1)
    return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)


def _grams(text: str) -> list[str]:
    """The words of a text, and each two and three in a row; any number is `0`."""
    words = ["0" if token.isdigit() else token for token in _TOKEN.findall(text.lower())]
    return [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]


def _limit(own: Array) -> float:
    return min(1.0, float(np.quantile(own, 1 - UNKNOWN_SHARE)) + _SLACK)


_VECTORS = HashingVectorizer(n_features=FEATURES, analyzer=_grams, norm=None, alternate_sign=False)
_WORDS = HashingVectorizer(n_features=COORDINATES // 2, token_pattern=r"(?u)\S+", norm="l2", alternate_sign=False)
_CHARACTERS = HashingVectorizer(
    n_features=COORDINATES // 2, analyzer="char_wb", ngram_range=(3, 3), norm="l2", alternate_sign=False
)
