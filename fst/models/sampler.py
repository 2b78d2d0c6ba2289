"""Batched sampling: left-padded prefill of the distinct requests, their caches repeated for n answers each, then one
token per step for all rows; finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

MAX_ROWS = 1024  # per batch of training and evaluation


@dataclass(frozen=True)
class Answer:
    """Sampled token ids (the end token included, if it was drawn), their log-probabilities under the sampling model
    at temperature 1, in nats, and the text without special tokens."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str = ""


@dataclass(frozen=True)
class Sampling:
    """How to sample: n answers per request, of at most `max_new_tokens` each; temperature 0 is greedy. An answer ends
    with one of `end_ids`; `pad_id` fills rows on the left."""

    n: int
    max_new_tokens: int
    temperature: float
    end_ids: tuple[int, ...]
    pad_id: int
    seed: int


@torch.inference_mode()
def sample_answers(model: nn.Module, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
    """n answers to each request, in order. The model is left in the mode (training or not) that it was in."""
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(plan.seed)
    per_batch = max(1, MAX_ROWS // plan.n)
    order = sorted(range(len(requests)), key=lambda i: len(requests[i]))
    found: dict[int, list[Answer]] = {}
    try:
        for start in range(0, len(order), per_batch):
            chunk = order[start : start + per_batch]
            groups = _sample_chunk(model, [requests[i] for i in chunk], plan, generator)
            found.update(zip(chunk, groups, strict=True))
    finally:
        model.train(was_training)
    return [found[i] for i in range(len(requests))]


@dataclass(frozen=True)
class Ask:
    """A request that is served: its tokens, and how to answer it. `adapter` is a name that `Engine.load` gave, None for
    the base; temperature 0 is greedy. The same ask in the same batch, under the same weights, gets the same answer."""

    tokens: tuple[int, ...]
    adapter: str | None
    max_new_tokens: int
    temperature: float
    seed: int


@torch.inference_mode()
def serve_rows(
    model: nn.Module, rows: Sequence[Ask], end_ids: Sequence[int], pad_id: int, heard: Callable[[int, int], None]
) -> list[Answer]:
    """One answer to each row, all in one batch. `heard(row, token)` is called with every token except end tokens."""
    was_training = model.training
    model.eval()
    generators = [torch.Generator().manual_seed(row.seed) for row in rows]

    def draw(logits: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        chosen = logits.argmax(-1).cpu()
        for place, row in enumerate(alive.tolist()):
            if rows[row].temperature:
                one = torch.softmax(logits[place].float() / rows[row].temperature, -1).cpu()
                chosen[place] = torch.multinomial(one, 1, generator=generators[row])[0]
        return chosen.to(logits.device)

    decoding = _Decoding([row.max_new_tokens for row in rows], tuple(end_ids), pad_id, draw, heard)
    try:
        return decoding.run(model, [row.tokens for row in rows], 1)
    finally:
        model.train(was_training)


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Token ids (rows,) drawn from logits (rows, vocabulary). The draw is on the CPU, so that a seed means the same on
    every device."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, -1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)


def _sample_chunk(
    model: nn.Module, requests: Sequence[Sequence[int]], plan: Sampling, generator: torch.Generator
) -> list[list[Answer]]:
    limits = [plan.max_new_tokens] * (len(requests) * plan.n)
    decoding = _Decoding(limits, plan.end_ids, plan.pad_id, lambda x, _: _draw(x, plan.temperature, generator))
    answers = decoding.run(model, requests, plan.n)
    return [answers[i * plan.n : (i + 1) * plan.n] for i in range(len(requests))]


@dataclass(frozen=True)
class _Decoding:
    """Prefill and decoding of a batch. `limits` are the most tokens of each row; `draw(logits, rows)` gives the next
    token of each unfinished row; `heard(row, token)` is called with every token except end tokens."""

    limits: Sequence[int]
    end_ids: Sequence[int]
    pad_id: int
    draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    heard: Callable[[int, int], None] | None = None

    def run(self, model: nn.Module, requests: Sequence[Sequence[int]], n: int) -> list[Answer]:
        """n answers to each request, those of one request together."""
        device = next(model.parameters()).device
        longest = max(len(r) for r in requests)
        ids = torch.tensor([[self.pad_id] * (longest - len(r)) + list(r) for r in requests], device=device)
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in requests], device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        cache.batch_repeat_interleave(n)
        logits = out.logits[:, -1].repeat_interleave(n, 0)
        mask = mask.repeat_interleave(n, 0)
        position = positions[:, -1:].repeat_interleave(n, 0)
        ends = torch.tensor(list(self.end_ids), device=device)
        limits = torch.tensor(list(self.limits), device=device)
        alive = torch.arange(len(requests) * n, device=device)
        tokens: list[list[int]] = [[] for _ in range(len(requests) * n)]
        logprobs: list[list[float]] = [[] for _ in range(len(requests) * n)]
        for step in range(1, max(self.limits) + 1):
            drawn = self.draw(logits, alive)
            chosen = torch.log_softmax(logits.float(), -1).gather(-1, drawn[:, None])[:, 0]
            for row, token, logprob in zip(alive.tolist(), drawn.tolist(), chosen.tolist(), strict=True):
                tokens[row].append(token)
                logprobs[row].append(logprob)
                if self.heard and token not in self.end_ids:
                    self.heard(row, token)
            running = ~torch.isin(drawn, ends) & (limits > step)
            if not bool(running.any()):
                break
            if not bool(running.all()):
                keep = running.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                alive, drawn, mask, position = alive[keep], drawn[keep], mask[keep], position[keep]
                limits = limits[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
            position = position + 1
            out = model(
                input_ids=drawn[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[:, -1]
        return [Answer(tuple(t), tuple(p)) for t, p in zip(tokens, logprobs, strict=True)]
