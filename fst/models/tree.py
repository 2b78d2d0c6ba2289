"""Runs the rows of a batch as a tree, so that no token goes through the model twice: prefix -> rest -> answer.

    prefix   a beginning that several contexts share, for instance the system turn with an evolved prompt
    rest     the remainder of each distinct context
    answer   one for each row

The nodes of a level run as one padded batch. Each reads its ancestors from the model's ordinary key-value cache, under
a mask that hides padding, at positions that count real tokens only. Gradients flow through the cache. The last token
of a context runs with its answer, because it predicts the answer's first token.

Invariants, each with a test: T1 prefix + rest is the context; T2 no other choice of prefixes runs fewer tokens, if
their trie branches at most DEEPEST times on any path; T3 the log-probabilities equal those of rows run one by one, and
T4 so does the gradient; T5 no level is wider than its longest node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from peft import PeftModel
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from fst.models.attention import GROUPED
from fst.models.cache import new_cache

Tokens = Sequence[int]
DEEPEST = 10  # depth of branching in the trie beyond which no further prefix is looked for


def takes_tree(model: nn.Module) -> bool:
    """Whether the rows of a batch may share prefixes; see `why_single`."""
    return not why_single(model)


def why_single(model: nn.Module) -> str:
    """Explain why each row of a batch must run by itself; empty if rows may share prefixes. For that, every layer must
    keep all keys and values in the cache, and its attention must accept a padding mask."""
    plain = plain_model(model)
    config = plain.config.get_text_config()
    used = getattr(config, "_attn_implementation", "")
    if plain.is_gradient_checkpointing:
        return "gradient checkpointing switches the model's cache off"
    if used not in (GROUPED, "sdpa", "eager"):
        return f"the attention {used!r} takes no mask (model.attention)"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        return "some of the model's layers do not keep every key and value"
    return ""


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT model; layers that carry an adapter stay in place."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def shared_prefixes(bodies: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
    """Cluster distinct token sequences by prefix; returns (length of the members' prefix, indices of the members)
    pairs.

    Of all ways to give each sequence one prefix, this one runs the fewest tokens. Each node of the sequences' trie may
    become a prefix, which costs its depth once; a sequence then costs its length below its deepest such ancestor.
    """

    def best(members: list[int], above: int, depth: int, level: int) -> _Choice:
        """The best choice for sequences that agree up to `depth`, below a prefix of length `above`."""
        if len(members) == 1 or level == DEEPEST:
            return _Choice(sum(len(bodies[i]) - above for i in members), members, [])
        first, last = bodies[members[0]], bodies[members[-1]]  # sorted: what these share, all share
        while depth < min(len(first), len(last)) and first[depth] == last[depth]:
            depth += 1
        branches = [
            list(branch)
            for _, branch in groupby(members, key=lambda i: bodies[i][depth] if depth < len(bodies[i]) else -1)
        ]
        closed = _Choice.of([best(branch, above, depth, level + 1) for branch in branches])
        opened = _Choice.of([best(branch, depth, depth, level + 1) for branch in branches])
        if opened.cost + depth >= closed.cost:
            return closed
        return _Choice(opened.cost + depth, [], [(depth, opened.joined), *opened.clusters])

    order = sorted(range(len(bodies)), key=lambda i: tuple(bodies[i]))
    chosen = best(order, 0, 0, 0) if bodies else _Choice(0, [], [])
    return [*chosen.clusters, *((len(bodies[i]), [i]) for i in chosen.joined)]


@dataclass(frozen=True)
class _Choice:
    """The choice for a part of the trie: tokens it runs, members that use the prefix above it, clusters inside it."""

    cost: int
    joined: list[int]
    clusters: list[tuple[int, list[int]]]

    @staticmethod
    def of(parts: Sequence[_Choice]) -> _Choice:
        return _Choice(
            sum(part.cost for part in parts),
            [i for part in parts for i in part.joined],
            [cluster for part in parts for cluster in part.clusters],
        )


@dataclass
class Encoded:
    """Distinct contexts in a cache, each without its last token. `mask` (contexts, length) is 0 where the cache holds
    padding, `lengths` (contexts,) counts the real tokens, `row_of[i]` is the cache row of the i-th context
    requested."""

    cache: DynamicCache
    mask: torch.Tensor
    lengths: torch.Tensor
    row_of: list[int]

    def spread(self, rows: Sequence[int]) -> Encoded:
        """Make one cache row for each of `rows` (indices of contexts), in their order. The cache is consumed."""
        picked = torch.tensor([self.row_of[i] for i in rows], device=self.mask.device)
        return Encoded(_picked(self.cache, picked), self.mask[picked], self.lengths[picked], list(range(len(rows))))


def encode_contexts(model: nn.Module, contexts: Sequence[Tokens], pad_id: int) -> Encoded:
    """Run contexts through the model, each shared prefix and each distinct rest once; if the model cannot share
    prefixes, each distinct context once."""
    place: dict[tuple[int, ...], int] = {}
    row_of = [place.setdefault(tuple(context[:-1]), len(place)) for context in contexts]
    bodies = list(place)
    clusters = shared_prefixes(bodies)
    if not takes_tree(model) or not any(length for length, members in clusters if len(members) > 1):
        clusters = [(0, [i]) for i in range(len(bodies))]
    plain = plain_model(model)
    device = next(plain.parameters()).device
    root = Encoded(
        new_cache(plain.config.get_text_config()),
        torch.zeros((len(clusters), 0), dtype=torch.long, device=device),
        torch.zeros(len(clusters), dtype=torch.long, device=device),
        [],
    )
    prefixes = _grown(plain, root, [bodies[members[0]][:length] for length, members in clusters], pad_id)
    prefixes.row_of = [cluster for cluster, (_, members) in enumerate(clusters) for _ in members]
    order = [i for _, members in clusters for i in members]
    starts = [length for length, members in clusters for _ in members]
    rests = _grown(
        plain,
        prefixes.spread(range(len(order))) if prefixes.mask.shape[1] else _empty(root, len(order)),
        [bodies[i][start:] for i, start in zip(order, starts, strict=True)],
        pad_id,
    )
    at = {body: row for row, body in enumerate(order)}
    rests.row_of = [at[i] for i in row_of]
    return rests


def continue_contexts(model: nn.Module, known: Encoded, bodies: Sequence[Tokens], pad_id: int) -> Encoded:
    """Run the remainder of bodies (contexts without their last token) whose first `known.lengths` tokens are in the
    cache already. The cache is consumed."""
    rests = [body[start:] for body, start in zip(bodies, known.lengths.tolist(), strict=True)]
    return _grown(plain_model(model), known, rests, pad_id)


def tree_tokens(bodies: Sequence[Tokens]) -> int:
    """Number of tokens that run for distinct bodies as a tree."""
    return sum(length + sum(len(bodies[i]) - length for i in members) for length, members in shared_prefixes(bodies))


def padded(rows: Sequence[Tokens], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows on the left; returns token ids (rows, longest) and a mask that is 1 at real tokens."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    return ids.to(device), mask.to(device)


def _grown(plain: PreTrainedModel, parents: Encoded, nodes: Sequence[Tokens], pad_id: int) -> Encoded:
    """Run the next level: one node per row, under the parent in the same row."""
    if not any(nodes):
        return parents
    ids, mask = padded(nodes, pad_id, parents.mask.device)
    positions = (parents.lengths[:, None] + mask.cumsum(-1) - 1).clamp(min=0)
    whole = torch.cat([parents.mask, mask], -1)
    plain.base_model(
        input_ids=ids, attention_mask=whole, position_ids=positions, past_key_values=parents.cache, use_cache=True
    )
    return Encoded(parents.cache, whole, parents.lengths + mask.sum(-1), parents.row_of)


def _empty(root: Encoded, rows: int) -> Encoded:
    return Encoded(root.cache, root.mask.new_zeros((rows, 0)), root.lengths.new_zeros(rows), [])


def _picked(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    if cache.get_seq_length():
        cache.batch_select_indices(rows)
    return cache
