"""The router decides which domain a text belongs to, and how novel it is. It knows what each domain's questions look
like, but nothing about their answers.

A text is represented by its set of words (scikit-learn's hashing; all numbers count as the same word), a domain by how
common each word is among its questions. Novelty is the mean, over the words of a text, of the logarithm of how much
more common a word is in all other domains than in this one: the likelihood ratio of Ren et al. (2019, "Likelihood
Ratios for Out-of-Distribution Detection") with the other domains as the background. It is scaled so that 0 is the most
typical text, and 1 a text that shares nothing. Measurements and alternatives: `fst bench router`, docs/benchmarks.md.

A text is unknown if its novelty exceeds its domain's limit. The limits are set so that a share LOST of all reference
questions would be called unknown, each measured against the other questions of its domain. In a domain of very diverse
texts its own questions are nearly as novel as any other text, so these losses are taken where they lower the limits
most.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

FEATURES = 1 << 16
COORDINATES = 1 << 12
LOST = 0.008  # share of the reference questions, as a mean over domains, that may be called unknown
LOST_OF_ONE, LOST_OF_ANY = 0.1, 0.002  # the most and the least for any one domain
UNSEEN = 3e-5  # probability given to a word that no other domain has
FLOOR = 0.1  # probability given to a word that this domain lacks, as a share of its probability elsewhere
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+|\d+|[^\w\s]")  # each Chinese character is a word

Array = np.ndarray[Any, Any]
Novelty = Callable[[Sequence[str]], Array]  # texts -> numbers (texts, domains)
Measure = Callable[[Sequence[Sequence[str]]], tuple[Novelty, list[Array]]]
"""Maps the questions of each domain to a function for the novelty of any text to each domain, and to the novelty of
each question with respect to the other questions of its own domain (leave-one-out)."""


@dataclass(frozen=True)
class Route:
    """Where a text belongs: `domain` is the name of the nearest one, "" if the router has none; `known` is whether the
    text is like that domain's questions; `novelty` is in [0, 1]; `margin` is how much nearer this domain is than the
    second."""

    domain: str
    known: bool
    novelty: float
    margin: float


def likelihood(questions: Sequence[Sequence[str]]) -> tuple[Novelty, list[Array]]:
    """The router's own measure; see the top of this file."""
    found = [words(texts) for texts in questions]
    counts = [np.asarray(have.sum(0), dtype=np.float32).ravel() for have in found]
    shares = [count / (len(texts) + 1) for count, texts in zip(counts, questions, strict=True)]
    weights, own = [], []
    for number, (have, count) in enumerate(zip(found, counts, strict=True)):
        others = [share for other, share in enumerate(shares) if other != number]
        background = UNSEEN + (np.mean(others, axis=0) if others else np.zeros_like(count))
        weights.append(_weights(shares[number], background))
        own.append(_mean(have, _weights(np.maximum(count - 1, 0) / max(1, have.shape[0]), background)))
    columns = np.stack(weights, axis=1)
    return lambda texts: _mean(words(texts), columns), own


class Router:
    """A deterministic router built from a release's reference questions. `own` has the leave-one-out novelty of each of
    them, by domain."""

    def __init__(self, questions: Mapping[str, Sequence[str]], measure: Measure = likelihood) -> None:
        known = {name: texts for name, texts in questions.items() if texts}
        self.domains = list(known)
        self._novelty, own = measure(list(known.values())) if known else (_nothing, [])
        self.own = dict(zip(self.domains, own, strict=True))
        self._limits = limits(own)

    def route(self, text: str) -> Route:
        """Route one text."""
        return self.routes([text])[0]

    def routes(self, texts: Sequence[str]) -> list[Route]:
        """Route several texts at once. The nearest domain is the one whose limit minus the text's novelty is
        largest."""
        if not self.domains or not texts:
            return [Route("", False, 1.0, 0.0) for _ in texts]
        novelty = self._novelty(texts)
        beyond = novelty - self._limits
        found = []
        for new, over, ranked in zip(novelty, beyond, np.argsort(beyond, axis=1, kind="stable"), strict=True):
            first = ranked[0]
            margin = float(over[ranked[1]] - over[first]) if len(ranked) > 1 else 1.0
            nearest = float(np.clip(new[first], 0.0, 1.0))
            found.append(Route(self.domains[first], bool(over[first] <= 1e-6), nearest, margin))
        return found


def limits(own: Sequence[Array]) -> Array:
    """Compute the highest novelty that a text of each domain may have, from that of the domain's own questions: the
    lowest common limit that loses at most LOST of them, within the bounds for each domain. So that a few questions that
    are all alike do not exclude the next one, it is averaged with one imaginary question that shares nothing
    (Laplace)."""
    if not own:
        return np.zeros(0)
    loosest, tightest = (np.array([np.quantile(of, 1 - lost) for of in own]) for lost in (LOST_OF_ANY, LOST_OF_ONE))
    best = loosest
    for common in -np.sort(-np.concatenate(own)):
        tried = np.maximum(np.minimum(loosest, common), tightest)
        if np.mean([np.mean(of > limit) for of, limit in zip(own, tried, strict=True)]) > LOST:
            break
        best = tried
    sizes = np.array([len(of) for of in own])
    return np.asarray((sizes * best + 1) / (sizes + 1))


def words(texts: Sequence[str]) -> Any:
    """Return a sparse matrix (texts, FEATURES) with a one for each word in each text."""
    return _WORDS.transform(texts)


def embed(texts: Sequence[str]) -> Array:
    """Return unit vectors (texts, COORDINATES) that are close for nearly identical texts, including their numbers:
    words and character trigrams, with equal weight."""
    found = np.concatenate([vectors.transform(texts).toarray() for vectors in (_STRINGS, _CHARACTERS)], axis=1)
    return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)


def _tokens(text: str) -> list[str]:
    """Split a text into words in lower case and punctuation; every number becomes `0`."""
    return ["0" if token.isdigit() else token for token in _TOKEN.findall(text.lower())]


def _weights(chance: Array, background: Array) -> Array:
    """What each word adds to novelty, in [0, 1]; `chance` is the probability that a question of the domain has it."""
    most, least = -np.log(FLOOR), -np.log((1 - FLOOR) / UNSEEN + FLOOR)
    return (-np.log((1 - FLOOR) * chance / background + FLOOR) - least) / (most - least)


def _mean(have: Any, weights: Array) -> Array:
    """The mean weight of the words of each text; 1 for a text without any."""
    total = np.asarray(have.sum(1)).reshape(-1, *(1,) * (weights.ndim - 1))
    return np.where(total > 0, np.asarray(have @ weights) / np.maximum(total, 1), 1.0)


def _nothing(texts: Sequence[str]) -> Array:
    return np.zeros((len(texts), 0))


_WORDS = HashingVectorizer(n_features=FEATURES, analyzer=_tokens, norm=None, binary=True, alternate_sign=False)
_STRINGS = HashingVectorizer(n_features=COORDINATES // 2, token_pattern=_TOKEN.pattern, norm="l2", alternate_sign=False)
_CHARACTERS = HashingVectorizer(
    n_features=COORDINATES // 2, analyzer="char_wb", ngram_range=(3, 3), norm="l2", alternate_sign=False
)
