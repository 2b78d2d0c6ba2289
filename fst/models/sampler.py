"""Batched sampling: each shared part of the requests runs once (fst/models/tree.py), then one token a step for all
rows. Rows that have ended leave the batch when a quarter of it has.

A row's noise is drawn ahead from its own seed, one number in [0, 1) a token, and a token is where the cumulative
distribution passes that number. So an answer depends on its request, its seed and the weights, not on what else is in
the batch, how many rows fit in memory, or the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fst.models.cache import cache_bytes
from fst.models.tree import encode_contexts, plain_model

MAX_ROWS = 1024  # in a batch, whatever memory there is
LOGIT_COPIES = 6  # of a row's logits that a step holds at once, in float32
KEPT = 0.75  # share of rows still running below which the others are dropped


@dataclass(frozen=True)
class Answer:
    """Sampled token ids (the end token included, if it was drawn), their log-probabilities under the sampling model
    at temperature 1, in nats, and the text without special tokens."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str = ""


@dataclass(frozen=True)
class Sampling:
    """How to sample: n answers to each request, of at most `max_new_tokens` each; temperature 0 is greedy. An answer
    ends with one of `end_ids`; `pad_id` fills rows on the left. `cache_bytes` bounds the memory of a batch."""

    n: int
    max_new_tokens: int
    temperature: float
    end_ids: tuple[int, ...]
    pad_id: int
    seed: int
    cache_bytes: int


@dataclass(frozen=True)
class Ask:
    """A request that is served: its tokens, and how to answer it. `adapter` is a name that `Engine.load` gave, None for
    the base; temperature 0 is greedy. The same ask under the same weights gets the same answer."""

    tokens: tuple[int, ...]
    adapter: str | None
    max_new_tokens: int
    temperature: float
    seed: int


@torch.inference_mode()
def sample_answers(model: nn.Module, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
    """n answers to each request, in order. The model is left in the mode (training or not) that it was in."""
    was_training = model.training
    model.eval()
    asks = [
        Ask(tuple(request), None, plan.max_new_tokens, plan.temperature, hash((plan.seed, i, k)) % 2**63)
        for i, request in enumerate(requests)
        for k in range(plan.n)
    ]
    found: dict[int, Answer] = {}
    try:
        for batch in _batches(model, asks, plan.cache_bytes):
            answers = _decode(model, [asks[i] for i in batch], plan.end_ids, plan.pad_id)
            found.update(zip(batch, answers, strict=True))
    finally:
        model.train(was_training)
    return [[found[i * plan.n + k] for k in range(plan.n)] for i in range(len(requests))]


@torch.inference_mode()
def serve_rows(
    model: nn.Module, rows: Sequence[Ask], end_ids: Sequence[int], pad_id: int, heard: Callable[[int, int], None]
) -> list[Answer]:
    """One answer to each row, all in one batch. `heard(row, token)` is called with every token except end tokens."""
    was_training = model.training
    model.eval()
    try:
        return _decode(model, rows, end_ids, pad_id, heard)
    finally:
        model.train(was_training)


def rows_that_fit(model: nn.Module, tokens: int, room: int) -> int:
    """Rows of `tokens` tokens whose cache and logits fit in `room` bytes; at least 1."""
    plain = plain_model(model)
    config = plain.config.get_text_config()
    row = tokens * cache_bytes(config, plain.dtype) + LOGIT_COPIES * 4 * config.vocab_size
    return max(1, min(MAX_ROWS, room // row))


def _batches(model: nn.Module, asks: Sequence[Ask], room: int) -> Iterator[list[int]]:
    """Rows (indices), those of short requests first, as many as fit in memory."""
    batch: list[int] = []
    for i in sorted(range(len(asks)), key=lambda i: len(asks[i].tokens)):
        if batch and len(batch) >= rows_that_fit(model, len(asks[i].tokens) + asks[i].max_new_tokens, room):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _draw(logprobs: torch.Tensor, temperatures: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Token ids (rows,) from log-probabilities (rows, vocabulary), temperatures (rows,) and noise (rows,) in [0, 1)."""
    warm = temperatures > 0
    if not bool(warm.any()):
        return logprobs.argmax(-1)
    if not bool((temperatures == 1).all()):
        logprobs = torch.log_softmax(logprobs / torch.where(warm, temperatures, 1.0)[:, None], -1)
    mass = logprobs.exp().cumsum(-1)
    drawn = torch.searchsorted(mass, (noise * mass[:, -1])[:, None], right=True)[:, 0].clamp(max=mass.shape[-1] - 1)
    return drawn if bool(warm.all()) else torch.where(warm, drawn, logprobs.argmax(-1))


def _noise(rows: Sequence[Ask], device: torch.device) -> torch.Tensor:
    """A number in [0, 1) for each row and token, from the row's seed alone: (rows, longest limit). Drawn on the CPU, so
    that a seed means the same on every device."""
    noise = torch.zeros(len(rows), max(row.max_new_tokens for row in rows))
    for place, row in enumerate(rows):
        if row.temperature:
            generator = torch.Generator().manual_seed(row.seed)
            noise[place, : row.max_new_tokens] = torch.rand(row.max_new_tokens, generator=generator)
    return noise.to(device)


def _decode(
    model: nn.Module,
    rows: Sequence[Ask],
    end_ids: Sequence[int],
    pad_id: int,
    heard: Callable[[int, int], None] | None = None,
) -> list[Answer]:
    """One answer to each row."""
    leaves = encode_contexts(model, [row.tokens for row in rows], pad_id).spread(range(len(rows)))
    cache, mask, position = leaves.cache, leaves.mask, leaves.lengths[:, None]
    device = mask.device
    ends = torch.tensor(list(end_ids), device=device)
    limits = torch.tensor([row.max_new_tokens for row in rows], device=device)
    temperatures = torch.tensor([row.temperature for row in rows], device=device)
    noise = _noise(rows, device)
    chosen = torch.tensor([row.tokens[-1] for row in rows], device=device)
    batch = torch.arange(len(rows), device=device)  # the row that each place of the batch runs
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    for step in range(1, max(row.max_new_tokens for row in rows) + 1):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
        out = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        said = torch.log_softmax(out.logits[:, -1].float(), -1)
        chosen = _draw(said, temperatures[batch], noise[batch, step - 1])
        likely = said.gather(-1, chosen[:, None])[:, 0]
        told = zip(batch.tolist(), running.tolist(), chosen.tolist(), likely.tolist(), strict=True)
        for row, runs, token, logprob in told:
            if runs:
                tokens[row].append(token)
                logprobs[row].append(logprob)
                if heard and token not in end_ids:
                    heard(row, token)
        running &= ~torch.isin(chosen, ends) & (limits[batch] > step)
        left = int(running.sum())
        if not left:
            break
        position = position + 1
        if left < KEPT * len(batch):
            keep = running.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            batch, chosen, mask, position, running = (
                batch[keep],
                chosen[keep],
                mask[keep],
                position[keep],
                running[keep],
            )
    return [Answer(tuple(t), tuple(p)) for t, p in zip(tokens, logprobs, strict=True)]
