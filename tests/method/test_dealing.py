"""Dealing prompts within a group, and the weights of the loss. The invariants are those of fst/method/slow/dealing.py:

D1  every problem gets each of the K prompts G/K times, and rollouts that share a prompt are neighbours
D2  the deal depends on a rollout's place in the global batch alone, so that processes agree
D3  advantages are computed once per problem, over all G rollouts, whatever their prompts
D4  after weighting, every (problem, prompt) cell weighs the same, however long its answers are
D5  a group of equal rewards is dropped, all others are kept whole
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fst.method.slow.dealing import cell_weights, group_advantages, kept_rows, slot

deals = st.tuples(st.integers(1, 8), st.integers(1, 6), st.integers(1, 5))  # K, G/K, problems


@given(deals)
def test_d1_each_problem_gets_each_prompt_equally_often(deal: tuple[int, int, int]) -> None:
    prompts, share, problems = deal
    group = prompts * share
    for problem in range(problems):
        dealt = [slot(problem * group + i, group, prompts) for i in range(group)]
        assert Counter(dealt) == dict.fromkeys(range(prompts), share)


@given(deals)
def test_d1_rollouts_that_share_a_prompt_are_neighbours(deal: tuple[int, int, int]) -> None:
    prompts, share, problems = deal
    group = prompts * share
    dealt = [slot(place, group, prompts) for place in range(problems * group)]
    assert dealt == [k for _ in range(problems) for k in range(prompts) for _ in range(share)]


@pytest.mark.parametrize(
    ("group", "prompts", "dealt"),
    [(8, 4, [0, 0, 1, 1, 2, 2, 3, 3]), (8, 1, [0] * 8), (4, 4, [0, 1, 2, 3]), (6, 2, [0, 0, 0, 1, 1, 1])],
)
def test_d1_deals_written_out(group: int, prompts: int, dealt: list[int]) -> None:
    assert [slot(place, group, prompts) for place in range(2 * group)] == dealt * 2


@given(deals, st.integers(1, 4))
def test_d2_ranks_deal_what_one_process_deals(deal: tuple[int, int, int], world: int) -> None:
    prompts, share, problems = deal
    group, rows = prompts * share, prompts * share * problems * world
    alone = [slot(place, group, prompts) for place in range(rows)]
    ranks = [range(rank * rows // world, (rank + 1) * rows // world) for rank in range(world)]
    assert [slot(place, group, prompts) for places in ranks for place in places] == alone


def test_d3_advantages_worked_out_by_hand() -> None:
    """Two problems, G=4, K=2 (the first two rollouts of each under one prompt, the last two under the other)."""
    rewards = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    first = 0.5 / (math.sqrt(1 / 3) + 1e-4)  # mean 1/2, unbiased variance 4 * (1/4) / 3
    second = [0.75 / (0.5 + 1e-4), *[-0.25 / (0.5 + 1e-4)] * 3]  # mean 1/4, unbiased variance (9/16 + 3/16) / 3
    found = group_advantages(rewards, 4)
    assert found.tolist() == pytest.approx([first, first, -first, -first, *second], abs=1e-6)


@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=4, max_size=4), min_size=1, max_size=5))
def test_d3_another_problems_rewards_do_not_matter(rewards_PG: list[list[float]]) -> None:
    together = group_advantages(torch.tensor(rewards_PG).view(-1), 4)
    alone = [group_advantages(torch.tensor(rewards), 4) for rewards in rewards_PG]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    assert together.view(-1, 4).sum(1).tolist() == pytest.approx([0.0] * len(rewards_PG), abs=1e-4)


cells = st.integers(1, 12).flatmap(
    lambda rows: st.tuples(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=rows, max_size=rows),
        st.lists(st.integers(1, 40), min_size=rows, max_size=rows),
        st.randoms(use_true_random=False),
    )
)


@given(cells)
def test_d4_weighted_token_mean_is_the_mean_over_cells_of_the_mean_over_tokens(drawn: tuple) -> None:
    keys, lengths, random = drawn
    losses = [[random.uniform(-1, 1) for _ in range(length)] for length in lengths]
    tokens_by_cell: dict[tuple[int, int], list[float]] = {}
    for key, row in zip(keys, losses, strict=True):
        tokens_by_cell.setdefault(key, []).extend(row)
    means = [sum(tokens) / len(tokens) for tokens in tokens_by_cell.values()]
    weights = cell_weights(torch.tensor(lengths), keys).tolist()
    weighted = sum(w * sum(row) for w, row in zip(weights, losses, strict=True)) / sum(lengths)
    assert weighted == pytest.approx(sum(means) / len(means), abs=1e-5)


def test_d4_weights_worked_out_by_hand() -> None:
    """Cells a: 2 + 4 tokens, b: 2, c: 4; N = 12 and 3 cells, so N / (3 * tokens of the cell)."""
    weights = cell_weights(torch.tensor([2, 4, 2, 4]), ["a", "a", "b", "c"])
    assert weights.tolist() == pytest.approx([12 / 18, 12 / 18, 12 / 6, 12 / 12])


@given(st.integers(1, 9), st.integers(1, 50))
def test_d4_equal_cells_keep_trls_own_mean(rows: int, length: int) -> None:
    assert cell_weights(torch.full((rows,), length), list(range(rows))).tolist() == [1.0] * rows


def test_d5_groups_worked_out_by_hand() -> None:
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.2, 0.3, 0.3])
    assert kept_rows(group_advantages(rewards, 3), 3).tolist() == [3, 4, 5, 12, 13, 14]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=4, max_size=4), min_size=1, max_size=6))
def test_d5_kept_are_the_groups_with_two_different_rewards(rewards_PG: list[list[float]]) -> None:
    kept = kept_rows(group_advantages(torch.tensor(rewards_PG).view(-1), 4), 4).tolist()
    assert kept == [4 * p + g for p, rewards in enumerate(rewards_PG) if len(set(rewards)) > 1 for g in range(4)]
