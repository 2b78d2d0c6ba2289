"""Cuts rows (a context and an answer each) into slices, each of which runs through the model at once.

Invariants, each with a test: L1 each row is in one slice; L2 a slice costs at most the budget, or is a single row;
L3 the total cost is no more than that of rows sorted by length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

Tokens = Sequence[int]
READ_SHARE = 8  # a token that is only read from the cache costs an eighth of one that runs through the model


def slices(contexts: Sequence[Tokens], lengths: Sequence[int], budget: int, tree: bool) -> list[list[int]]:
    """Return the row indices of each slice. `lengths` are those of the answers, in tokens.

    With `tree`, rows with the same context share it, and contexts share their common prefixes. Sorting rows by context
    keeps these together; sorting by answer length wastes less on padding. The cheaper order is taken.
    """
    sizes = [len(context) + length for context, length in zip(contexts, lengths, strict=True)]
    orders = [sorted(range(len(sizes)), key=lambda row: (lengths[row] if tree else sizes[row], tuple(contexts[row])))]
    if tree:
        orders.append(sorted(range(len(sizes)), key=lambda row: (tuple(contexts[row]), lengths[row])))
    cut = [_cut(order, contexts, lengths, budget, tree) for order in orders]
    return [part.rows for part in min(cut, key=lambda parts: sum(part.cost(tree) for part in parts))]


def _cut(
    order: Sequence[int], contexts: Sequence[Tokens], lengths: Sequence[int], budget: int, tree: bool
) -> list[Slice]:
    """Cut consecutive rows of an order into slices, each as long as the budget allows."""
    found: list[Slice] = []
    for row in order:
        wider = found[-1].with_row(row, contexts[row], lengths[row]) if found else None
        if wider and wider.cost(tree) <= budget:
            found[-1] = wider
        else:
            found.append(Slice().with_row(row, contexts[row], lengths[row]))
    return found


@dataclass(frozen=True)
class Slice:
    """Rows and what determines their cost: their distinct contexts, sorted, the tokens in the trie of these (`nodes`),
    and the lengths of the longest context (`deepest`) and the longest answer."""

    rows: list[int] = field(default_factory=list)
    contexts: list[tuple[int, ...]] = field(default_factory=list)
    nodes: int = 0
    deepest: int = 0
    longest: int = 0

    def with_row(self, row: int, context: Tokens, length: int) -> Slice:
        """Return this slice with one more row."""
        contexts, nodes, new = self.contexts, self.nodes, tuple(context)
        place = bisect_left(contexts, new)
        if place == len(contexts) or contexts[place] != new:
            beside = contexts[max(0, place - 1) : place + 1]
            nodes += len(new) - max((common(new, other) for other in beside), default=0)
            contexts = [*contexts[:place], new, *contexts[place:]]
        return Slice([*self.rows, row], contexts, nodes, max(self.deepest, len(new)), max(self.longest, length))

    def cost(self, tree: bool) -> int:
        """Tokens that run through the model, including padding, plus the weighted tokens only read from the cache."""
        deepest = len(self.rows) * self.deepest
        return len(self.rows) * self.longest + (self.nodes + deepest // READ_SHARE if tree else deepest)


def common(a: Tokens, b: Tokens) -> int:
    """Length of the common prefix of two sequences, in tokens."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))
