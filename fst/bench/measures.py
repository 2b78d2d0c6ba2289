"""Measures of novelty that the router's was compared with (`fst bench router`): cosines over hashed features, which it
had before, and over TF-IDF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from fst.serving.router import Array, Measure, Novelty, embed, likelihood

NEAR = 3  # neighbours
Vectors = Callable[[Sequence[str]], Any]  # texts -> sparse unit vectors


def to_the_mean(fitted: Callable[[Sequence[str]], Vectors]) -> Measure:
    """One minus the cosine to the mean of a domain's questions; `fitted` makes vectors, given all questions."""

    def measure(questions: Sequence[Sequence[str]]) -> tuple[Novelty, list[Array]]:
        vectors = fitted([text for texts in questions for text in texts])
        found = [vectors(texts) for texts in questions]
        sums = np.stack([np.asarray(of.sum(0)).ravel() for of in found], axis=1)
        means = sums / np.maximum(np.linalg.norm(sums, axis=0), 1e-12)
        own = []
        for of, total in zip(found, sums.T, strict=True):
            others = total - of.toarray()
            dots = np.asarray(of.multiply(others).sum(1)).ravel()
            own.append(1 - dots / np.maximum(np.linalg.norm(others, axis=1), 1e-12))
        return lambda texts: 1 - np.asarray(vectors(texts) @ means), own

    return measure


def to_the_nearest(fitted: Callable[[Sequence[str]], Vectors]) -> Measure:
    """One minus the mean cosine to the NEAR nearest of a domain's questions."""

    def measure(questions: Sequence[Sequence[str]]) -> tuple[Novelty, list[Array]]:
        vectors = fitted([text for texts in questions for text in texts])
        found = [vectors(texts) for texts in questions]
        own = []
        for of in found:
            cosines = (of @ of.T).toarray()
            np.fill_diagonal(cosines, -1.0)
            own.append(_far(cosines))

        def novelty(texts: Sequence[str]) -> Array:
            asked = vectors(texts)
            return np.stack([_far((asked @ of.T).toarray()) for of in found], axis=1)

        return novelty, own

    return measure


def _far(cosines: Array) -> Array:
    return np.asarray(1 - np.sort(cosines, axis=1)[:, -NEAR:].mean(1))


def _tf_idf(questions: Sequence[str]) -> Vectors:
    """Words alone and in twos, weighed over the questions."""
    return TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\S+", sublinear_tf=True).fit(questions).transform


def _hashed(_: Sequence[str]) -> Vectors:
    """Words and characters in threes, hashed, all alike."""
    return lambda texts: csr_matrix(embed(texts))


MEASURES: Mapping[str, Measure] = {
    "the router's: likelihood of words": likelihood,
    "hashed words and characters, mean": to_the_mean(_hashed),
    "TF-IDF, mean": to_the_mean(_tf_idf),
    f"TF-IDF, {NEAR} nearest": to_the_nearest(_tf_idf),
}
