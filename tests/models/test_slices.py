"""Slices of a step: invariants L1 to L3 of fst/models/slices.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fst.models.slices import Slice, slices

Rows = list[tuple[tuple[int, ...], int]]
row = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), st.integers(0, 9))
rows_strategy = st.lists(row, min_size=1, max_size=20)


def trie_nodes(contexts: set[tuple[int, ...]]) -> int:
    return len({context[:end] for context in contexts for end in range(1, len(context) + 1)})


@given(rows_strategy, st.integers(1, 80), st.booleans())
def test_l1_l2_each_row_once_and_within_the_budget(rows: Rows, budget: int, tree: bool) -> None:
    contexts, lengths = [c for c, _ in rows], [n for _, n in rows]
    found = slices(contexts, lengths, budget, tree)
    assert sorted(i for part in found for i in part) == list(range(len(rows)))
    for part in found:
        answers = len(part) * max(lengths[i] for i in part)
        deepest = len(part) * max(len(contexts[i]) for i in part)
        cost = answers + (trie_nodes({contexts[i] for i in part}) + deepest // 8 if tree else deepest)
        assert cost <= budget or len(part) == 1


@given(rows_strategy)
def test_l2_the_cost_counts_each_token_of_the_trie_once(rows: Rows) -> None:
    whole = Slice()
    for place, (context, length) in enumerate(rows):
        whole = whole.with_row(place, context, length)
    assert whole.nodes == trie_nodes({context for context, _ in rows})
    assert whole.rows == list(range(len(rows)))


def test_l3_rows_of_one_context_stay_together_where_that_is_cheaper() -> None:
    long = [tuple(range(start, start + 50)) for start in (0, 100, 200)]
    contexts, lengths = [long[i % 3] for i in range(12)], [2 + i // 3 for i in range(12)]
    together = slices(contexts, lengths, 110, tree=True)
    assert sorted(sorted({contexts[i][0] for i in part}) for part in together) == [[0], [100], [200]]
    by_length = slices(contexts, lengths, 110, tree=False)
    assert [sorted(lengths[i] for i in part) for part in by_length] == [[2, 2], [2, 3], [3, 3], [4, 4], [4, 5], [5, 5]]


def test_l3_answers_of_one_length_stay_together_where_that_is_cheaper() -> None:
    contexts, lengths = [(i % 2, 5) for i in range(8)], [40, 1, 1, 40, 1, 40, 40, 1]
    assert sorted(sorted(lengths[i] for i in part) for part in slices(contexts, lengths, 170, tree=True)) == [
        [1, 1, 1, 1],
        [40, 40, 40, 40],
    ]
