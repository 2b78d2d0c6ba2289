"""Finds new domains: requests that are unlike every served domain, grouped by how alike they are.

Questions that follow a pattern make a group of their own. In free text hardly any two requests are alike, so what is
left over is grouped again by a wider limit, provided that no pattern makes up much of a group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from fst.serving.router import Array, Router, embed

ALIKE = 0.6  # mean cosine distance up to which requests are of one kind
FREE = 0.9  # the same for free text: one language, and something in common
PATTERN = 1 / 3  # share of a group of free text from which similar requests in it are a pattern that is still growing
EXAMPLES = 50  # questions of a new domain that are kept, to recognise it by
_WORD = re.compile(r"[a-z][a-z0-9_]{2,}")


@dataclass(frozen=True)
class Newcomer:
    """A domain that no release serves yet: its name, questions to recognise it by, and the time of its first request
    (seconds since the epoch)."""

    name: str
    questions: tuple[str, ...]
    since: float

    def with_more(self, texts: Sequence[str]) -> Newcomer:
        """The same domain, known by these questions as well; the latest EXAMPLES are kept."""
        return replace(self, questions=tuple(dict.fromkeys((*self.questions, *texts)))[-EXAMPLES:])

    def belongs(self, texts: Sequence[str]) -> list[bool]:
        """Decide for each text whether it belongs to this domain."""
        return [route.known for route in Router({self.name: self.questions}).routes(list(texts))] if texts else []


def clusters(texts: Sequence[str], least: int) -> list[list[int]]:
    """Group similar texts; returns groups of at least `least` indices, the largest group first. Texts that are in none
    are grouped again as free text: a group counts if no pattern in it is larger than the share PATTERN."""
    if len(texts) < max(2, least):
        return []
    vectors = embed(texts)
    alike = _grouped(vectors, range(len(texts)), ALIKE)
    found = [group for group in alike if len(group) >= least]
    pattern = {index: len(group) for group in alike for index in group}
    left = sorted(index for index, size in pattern.items() if size < least)
    for group in _grouped(vectors, left, FREE):
        if len(group) >= least and max(pattern[index] for index in group) <= PATTERN * len(group):
            found.append(group)
    return sorted(found, key=len, reverse=True)


def _grouped(vectors: Array, indices: Sequence[int], limit: float) -> list[list[int]]:
    """Group the vectors of these indices up to a mean cosine distance."""
    if len(indices) < 2:
        return [[index] for index in indices]
    chosen = vectors[list(indices)]
    grouping = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=limit)
    groups: dict[int, list[int]] = {}
    for index, label in zip(indices, grouping.fit_predict(1 - chosen @ chosen.T), strict=True):
        groups.setdefault(int(label), []).append(index)
    return list(groups.values())


def name_for(texts: Sequence[str], known: Mapping[str, Sequence[str]], taken: Collection[str]) -> str:
    """Choose a name, not in `taken`, for a group of texts: the word whose share among them most exceeds its share among
    the known domains' texts, words such as `the` aside, or `domain` if there is no such word; a number is appended to a
    name that is taken."""
    own = _shares(texts)
    others = _shares([text for texts in known.values() for text in texts])
    ranked = sorted(own, key=lambda word: (others.get(word, 0.0) - own[word], word))
    best = ranked[0] if ranked and own[ranked[0]] > others.get(ranked[0], 0.0) else "domain"
    number = 1
    while (name := best if number == 1 else f"{best}-{number}") in taken:
        number += 1
    return name


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """The share of the texts that contain each word."""
    counts = Counter(word for text in texts for word in set(_WORD.findall(text.lower())) - ENGLISH_STOP_WORDS)
    return {word: count / len(texts) for word, count in counts.items()}
