"""Batched sampling: each shared part of the requests runs once (fst/models/tree.py), then all rows get one token per
step. Rows that have ended are dropped from the batch once they are a quarter of it.

A row's noise is drawn ahead from its own seed, one number in [0, 1) per token, and the token is the one at which the
cumulative distribution passes that number. So, up to rounding, an answer depends on its request, its seed and the
weights, but not on the rest of the batch, how many rows fit in memory, or the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from fst.models.cache import cache_bytes
from fst.models.tree import Encoded, encode_contexts, plain_model

MAX_ROWS = 1024  # in a batch, however much memory there is
LOGIT_COPIES = 6  # float32 copies of a row's logits that a step holds at once
KEPT = 0.75  # share of rows still running below which the others are dropped


@dataclass(frozen=True)
class Answer:
    """Sampled token ids (including the end token, if it was drawn), their log-probabilities under the sampling model
    at temperature 1, in nats, and the text without special tokens. `tempered` has their log-probabilities at the
    temperature that they were drawn at, if that is neither 1 nor 0; otherwise it is empty."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str = ""
    tempered: tuple[float, ...] = ()


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
    """A request to serve: its tokens, and how to answer it. `adapter` is a name returned by `Engine.load`, or None for
    the base; temperature 0 is greedy; tokens are drawn from the likeliest ones that together have the probability
    `top_p`. The same ask under the same weights gets the same answer."""

    tokens: tuple[int, ...]
    adapter: str | None
    max_new_tokens: int
    temperature: float
    seed: int
    top_p: float = 1.0


@dataclass(eq=False)
class Row:
    """An unfinished answer; `key` is the caller's name for it."""

    ask: Ask
    key: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tempered: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def answer(self) -> Answer:
        tempered = tuple(self.tempered) if self.ask.temperature not in (0, 1) else ()
        return Answer(tuple(self.tokens), tuple(self.logprobs), tempered=tempered)


@torch.inference_mode()
def sample_answers(
    model: nn.Module, requests: Sequence[Sequence[int]], plan: Sampling, on_step: Callable[[int], None] | None = None
) -> list[list[Answer]]:
    """Sample plan.n answers to each request, in order. The model's mode (training or evaluation) is restored
    afterwards. `on_step` is called after every step with the number of tokens it drew."""
    rows = [
        Row(Ask(tuple(request), None, plan.max_new_tokens, plan.temperature, hash((plan.seed, i, k)) % 2**63))
        for i, request in enumerate(requests)
        for k in range(plan.n)
    ]
    with evaluating(model):
        for batch in _batches(model, rows, plan.cache_bytes):
            Decoder(model, batch, plan.end_ids, plan.pad_id).run(on_step)
    answers = iter([row.answer for row in rows])
    return [[next(answers) for _ in range(plan.n)] for _ in requests]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode inside the block, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def rows_that_fit(model: nn.Module, tokens: int, room: int) -> int:
    """Number of rows of `tokens` tokens whose cache and logits fit in `room` bytes; at least 1."""
    return max(1, min(MAX_ROWS, room // row_bytes(model, tokens)))


def row_bytes(model: nn.Module, tokens: int) -> int:
    """Bytes that a row of `tokens` tokens takes: its cache, and its logits during a step."""
    plain = plain_model(model)
    config = plain.config.get_text_config()
    return answer_bytes(tokens, cache_bytes(config, plain.dtype), int(config.vocab_size))


def answer_bytes(tokens: int, cache: int, vocabulary: int) -> int:
    """As `row_bytes`, for a model whose cache takes `cache` bytes per token."""
    return tokens * cache + LOGIT_COPIES * 4 * vocabulary


def _batches(model: nn.Module, rows: Sequence[Row], room: int) -> Iterator[list[Row]]:
    """Yield the rows in batches that fit in memory, those of short requests first."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ask.tokens)):
        if batch and len(batch) >= rows_that_fit(model, len(row.ask.tokens) + row.ask.max_new_tokens, room):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _draw(
    logits: torch.Tensor, temperatures: torch.Tensor, top_ps: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw token ids (rows,) from logits (rows, vocabulary), temperatures and top_p (rows,) and noise (rows,) in [0,
    1). Returns them with their log-probabilities (rows,), in nats, at temperature 1 and as they were drawn."""
    likely = tempered = torch.softmax(logits, -1)
    warm = temperatures > 0
    if not bool(warm.any()):
        chosen = logits.argmax(-1)
    else:
        if not bool((temperatures == 1).all()):
            tempered = torch.softmax(logits / torch.where(warm, temperatures, 1.0)[:, None], -1)
        if bool((top_ps < 1).any()):
            tempered = _nucleus(tempered, top_ps)
        mass = tempered.cumsum(-1)
        if tempered is not likely:
            tempered = tempered / mass[:, -1:]
        chosen = torch.searchsorted(mass, (noise * mass[:, -1])[:, None], right=True)[:, 0].clamp(
            max=mass.shape[-1] - 1
        )
        if not bool(warm.all()):
            chosen = torch.where(warm, chosen, logits.argmax(-1))
    at_one = likely.gather(-1, chosen[:, None])[:, 0].log()
    return chosen, at_one, at_one if tempered is likely else tempered.gather(-1, chosen[:, None])[:, 0].log()


def _nucleus(likely: torch.Tensor, top_ps: torch.Tensor) -> torch.Tensor:
    """Set probabilities (rows, vocabulary) outside each row's nucleus to 0: the nucleus is the smallest set of
    likeliest tokens with a total probability of `top_p` (Holtzman et al. 2020). A row with top_p 1 stays as it is."""
    ordered, order = likely.sort(dim=-1, descending=True, stable=True)
    limits = torch.where(top_ps < 1, top_ps, 2.0)[:, None]  # sums may round to 1 before their end
    kept = ordered.where(ordered.cumsum(-1) - ordered < limits, 0.0)
    return torch.zeros_like(likely).scatter(-1, order, kept)


def _noise(rows: Sequence[Ask], device: torch.device) -> torch.Tensor:
    """Draw a number in [0, 1) for each row and token from the row's seed: (rows, longest limit). Drawn on the CPU, so
    that a seed gives the same numbers for every device."""
    noise = torch.zeros(len(rows), max(row.max_new_tokens for row in rows))
    for place, row in enumerate(rows):
        if row.temperature:
            generator = torch.Generator().manual_seed(row.seed)
            noise[place, : row.max_new_tokens] = torch.rand(row.max_new_tokens, generator=generator)
    return noise.to(device)


class Decoder:
    """A batch of unfinished answers: the contexts run once at the start, then every row gets one token per step.
    `rows[i]` is in row i of the cache; ended rows stay until they are a quarter of the batch. `encoded` has the rows'
    contexts if they have run already."""

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        end_ids: Sequence[int],
        pad_id: int,
        encoded: Encoded | None = None,
    ) -> None:
        asks = [row.ask for row in rows]
        encoded = encoded or encode_contexts(model, [ask.tokens for ask in asks], pad_id)
        leaves = encoded.spread(range(len(asks)))
        self.model, self.rows, self.end_ids = model, list(rows), frozenset(end_ids)
        self.cache, self.mask, self.positions = leaves.cache, leaves.mask, leaves.lengths[:, None]
        device = self.mask.device
        self.chosen = torch.tensor([ask.tokens[-1] for ask in asks], device=device)
        self.drawn = torch.zeros(len(asks), dtype=torch.long, device=device)  # tokens of each row so far
        self.temperatures = torch.tensor([ask.temperature for ask in asks], device=device)
        self.top_ps = torch.tensor([ask.top_p for ask in asks], device=device)
        self.noise = _noise(asks, device)

    @property
    def left(self) -> int:
        """Rows that have not ended."""
        return sum(not row.ended for row in self.rows)

    def run(self, on_step: Callable[[int], None] | None = None) -> None:
        """Step until all rows have ended."""
        while self.left:
            told = self.step()
            if on_step:
                on_step(len(told))

    def step(self) -> list[tuple[Row, int]]:
        """Draw the next token of every unfinished row; returns (row, token) pairs, including end tokens."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], -1)
        out = self.model(
            input_ids=self.chosen[:, None],
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits = out.logits[:, -1].float()
        noise = self.noise.gather(-1, self.drawn[:, None].clamp(max=self.noise.shape[-1] - 1))[:, 0]
        self.chosen, likely, tempered = _draw(logits, self.temperatures, self.top_ps, noise)
        self.drawn = self.drawn + 1
        told = []
        drawn = zip(self.rows, self.chosen.tolist(), likely.tolist(), tempered.tolist(), strict=True)
        for row, token, logprob, own in drawn:
            if not row.ended:
                row.tokens.append(token)
                row.logprobs.append(logprob)
                row.tempered.append(own)
                row.ended = token in self.end_ids or len(row.tokens) == row.ask.max_new_tokens
                told.append((row, token))
        running = torch.tensor([not row.ended for row in self.rows], device=self.positions.device)
        self.positions = (self.positions + 1) * running[:, None]  # ended rows stay at position 0, which every model has
        if 0 < self.left < KEPT * len(self.rows):
            self._keep([place for place, row in enumerate(self.rows) if not row.ended])
        return told

    def _keep(self, places: list[int]) -> None:
        """Drop all rows except those at these places."""
        keep = torch.tensor(places, device=self.mask.device)
        self.cache.batch_select_indices(keep)
        self.rows = [self.rows[place] for place in places]
        self.mask, self.positions, self.chosen = self.mask[keep], self.positions[keep], self.chosen[keep]
        self.drawn, self.temperatures, self.noise = self.drawn[keep], self.temperatures[keep], self.noise[keep]
        self.top_ps = self.top_ps[keep]
