"""Dealing K prompts within each problem's group, and the weights of the loss. Pure functions.

Arrays carry their axes: B rollouts in order, G rollouts per problem, K prompts. Invariants: D1 every problem
gets each prompt G/K times; D2 the deal depends only on a rollout's place in the global batch, so processes
agree; D3 advantages are computed once per problem, over all G; D4 after weighting, every (problem, prompt)
cell that is left weighs the same, however long its answers are; D5 a group of equal rewards is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

ZERO_STD = 1e-8


def slot(place: int, group_size: int, prompts: int) -> int:
    """Return the index, in [0, K), of the prompt at this place of the global batch (places count all processes' rows).

    The rollouts of a group that share a prompt are neighbours, so that G/K answers to one request share its prefill.
    """
    return place % group_size * prompts // group_size


def grouped(requests: Sequence[list[int]]) -> tuple[list[list[int]], int]:
    """Merge equal neighbouring requests. Returns the merged requests and the number n of answers to sample for each, so
    that the answers come out one per row and in the rows' order. Runs of equal requests must all have the same length;
    otherwise the requests are returned unmerged, with n = 1."""
    counts: list[tuple[list[int], int]] = []
    for ids in requests:
        if counts and counts[-1][0] == ids:
            counts[-1] = (ids, counts[-1][1] + 1)
        else:
            counts.append((ids, 1))
    sizes = {n for _, n in counts}
    if len(sizes) != 1:
        return list(requests), 1
    return [ids for ids, _ in counts], sizes.pop()


def group_advantages(rewards_B: torch.Tensor, group_size: int, eps: float = 1e-4) -> torch.Tensor:
    """A_i = (r_i - mean) / (std + eps) over all G rollouts of one problem (paper, section 3; unbiased std,
    as TRL computes it). The trainer takes TRL's; this is the reference that tests compare it with."""
    rewards_PG = rewards_B.view(-1, group_size)
    centred = rewards_PG - rewards_PG.mean(1, keepdim=True)
    return (centred / (rewards_PG.std(1, keepdim=True) + eps)).view(-1)


def kept_rows(advantages_B: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return the indices of the rows whose groups carry signal; zero-variance groups are dropped, not resampled."""
    signal = (advantages_B.view(-1, group_size).abs() > ZERO_STD).any(1)
    return signal.repeat_interleave(group_size).nonzero()[:, 0]


def cell_weights(lengths_B: torch.Tensor, cells_B: Sequence[object]) -> torch.Tensor:
    """Return the factor (B,) for each rollout's advantage that turns a mean over tokens into Eq. 4's mean.

    TRL sums over tokens and divides by N, all tokens. Eq. 4 averages within a prompt first, then over prompts;
    a prompt here is what the model reads, i.e. a (problem, system prompt) cell. So the factor is
    N / (cells * tokens of the rollout's cell). A cell without tokens (all its answers masked) is no cell and weighs 0.
    lengths_B: answer lengths in tokens; cells_B: any hashable key.
    """
    tokens: dict[object, float] = {}
    for cell, length in zip(cells_B, lengths_B.tolist(), strict=True):
        tokens[cell] = tokens.get(cell, 0.0) + length
    total, cells = float(lengths_B.sum()), sum(count > 0 for count in tokens.values())
    factors = {cell: total / (cells * count) if count else 0.0 for cell, count in tokens.items()}
    return torch.tensor([factors[cell] for cell in cells_B], dtype=torch.float32)
