"""Finds new domains: requests that are unlike every served domain, grouped by how alike they are.

Questions that follow a pattern make a group of their own. In free text hardly any two requests are alike, so what is
left over is one group, provided that no pattern makes up much of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from fst.serving.router import Router, embed

ALIKE = 0.6  # mean cosine distance up to which requests are of one kind
PATTERN = 1 / 3  # share of the requests left over from which similar ones are a pattern that is still growing
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
    make one group if they are as many, and no group of similar ones among them is larger than the share PATTERN."""
    if len(texts) < max(2, least):
        return []
    grouping = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=ALIKE)
    groups: dict[int, list[int]] = {}
    vectors = embed(texts)
    for index, label in enumerate(grouping.fit_predict(1 - vectors @ vectors.T)):
        groups.setdefault(int(label), []).append(index)
    found = [group for group in groups.values() if len(group) >= least]
    small = [group for group in groups.values() if len(group) < least]
    left = sorted(index for group in small for index in group)
    if len(left) >= least and max(map(len, small)) <= PATTERN * len(left):
        found.append(left)
    return sorted(found, key=len, reverse=True)


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
