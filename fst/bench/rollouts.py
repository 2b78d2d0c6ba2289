"""`fst bench rollouts`: tokens per second of the transformers engine against `model.generate` as TRL calls it, on the
same prompts in the same run, how near the engine comes to what this machine's matrix products reach, and the tokens per
second of vLLM where it is installed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import torch

from fst.bench.speed import DOMAIN, PROMPTS, endless, text_of
from fst.config import Params
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.models.engines.vllm import BASE, VllmEngine
from fst.models.engines.vllm_server import headers
from fst.models.policy import Policy, load_policy
from fst.models.sampler import Ask

SHORTEST, LONGEST = 8, 128  # answers of mixed lengths, in tokens
_UNLIMITED = httpx.Limits(max_connections=None)


@dataclass(frozen=True)
class Batch:
    """Rows to answer: token ids, and how long each answer is (None: until the model ends it)."""

    name: str
    rows: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...] | None = None


def rollouts(params: Params, blocks: int) -> Iterator[str]:
    """Lines, one for each batch.

    Of the lab: a training step's rollouts (16 problems, 8 answers each), then 200 distinct requests. Of another model:
    16 questions of about 100 tokens with 8 answers each, all of 64 tokens, then of 8 to 128.
    """
    torch.set_num_threads(params.model.threads)
    policy = load_policy(params.model)
    batches = _lab(policy) if params.model.base == "lab" else _texts(policy)
    for batch in batches:
        ours, theirs = [], []
        for block in range(blocks + (blocks > 1)):  # the first warms up
            mine, plain = _ours(policy, batch, block), _generate(policy, batch)
            if block or blocks == 1:
                ours.append(mine)
                theirs.append(plain)
        mine, plain = statistics.median(ours), statistics.median(theirs)
        limit = matmul_limit(policy, len(batch.rows))
        share = _work(policy, batch, mine) / limit
        yield (
            f"{batch.name}: ours {mine:,.0f} tokens/s, model.generate {plain:,.0f}, ratio {mine / plain:.2f}; "
            f"{share:.0%} of the {limit / 1e9:.0f} GFLOP/s that matrix products of these shapes reach on "
            f"{params.model.threads} thread(s)"
        )
    if params.vllm.url or Path(params.vllm.python).exists():
        yield from _of_vllm(policy, params, batches, blocks)


def _lab(policy: Policy) -> list[Batch]:
    problems = load_domain(DOMAIN, SplitSizes(400, 1, 1), seed=0).train
    step = policy.encode([policy.messages(PROMPTS[0], p.question) for p in problems[:16]])
    many = policy.encode([policy.messages(PROMPTS[i % 4], p.question) for i, p in enumerate(problems[:200])])
    return [
        Batch("a training step, 16 x 8", tuple(tuple(ids) for ids in step for _ in range(8))),
        Batch("200 distinct requests", tuple(map(tuple, many))),
    ]


def _texts(policy: Policy) -> list[Batch]:
    rng = random.Random(0)
    asked = policy.encode([policy.messages("Solve the task.", text_of(policy, 100, rng)) for _ in range(16)])
    rows = tuple(tuple(ids) for ids in asked for _ in range(8))
    mixed = tuple(SHORTEST + (LONGEST - SHORTEST) * i // (len(rows) - 1) for i in range(len(rows)))
    return [
        Batch("16 x 8, answers of 64 tokens", rows, (64,) * len(rows)),
        Batch(f"16 x 8, answers of {SHORTEST} to {LONGEST} tokens", rows, tuple(rng.sample(mixed, len(mixed)))),
    ]


def _ours(policy: Policy, batch: Batch, seed: int) -> float:
    """Tokens a second."""
    asked = policy if batch.lengths is None else endless(policy)
    lengths = batch.lengths or (policy.max_new_tokens,) * len(batch.rows)
    asks = [Ask(ids, None, n, 1.0, hash((seed, i))) for i, (ids, n) in enumerate(zip(batch.rows, lengths, strict=True))]
    started = time.perf_counter()
    answers = asked.engine.serve(asks)
    return sum(len(answer.tokens) for answer in answers) / (time.perf_counter() - started)


def _of_vllm(policy: Policy, params: Params, batches: Sequence[Batch], blocks: int) -> Iterator[str]:
    """Lines: tokens per second of a vLLM server on the same rows, each a request of its own, all in flight. The first
    answers of a server are its warm-up. Answers of no given length end where the model ends them."""
    with ExitStack() as stack:
        engine = stack.enter_context(closing(VllmEngine.build(policy, params)))
        pool = stack.enter_context(ThreadPoolExecutor(max(len(batch.rows) for batch in batches)))
        http = stack.enter_context(
            httpx.Client(base_url=engine.ready(), timeout=None, limits=_UNLIMITED, trust_env=False)
        )
        http.headers.update(headers(params.vllm))
        for batch in batches:
            lengths = batch.lengths or (policy.max_new_tokens,) * len(batch.rows)
            bodies = [
                {
                    "model": BASE,
                    "prompt": ids,
                    "max_tokens": n,
                    "seed": seed,
                    "temperature": 1.0,
                    "logprobs": 0,
                    "ignore_eos": batch.lengths is not None,
                }
                for seed, (ids, n) in enumerate(zip(batch.rows, lengths, strict=True))
            ]
            speeds = []
            for _ in range(blocks + 1):
                started = time.perf_counter()
                written = sum(pool.map(partial(_written, http), bodies))
                speeds.append(written / (time.perf_counter() - started))
            yield f"{batch.name}: vLLM {statistics.median(speeds[1:]):,.0f} tokens/s"


def _written(http: httpx.Client, body: dict[str, object]) -> int:
    """Tokens of one answer."""
    answer = http.post("/v1/completions", json=body)
    answer.raise_for_status()
    return int(answer.json()["usage"]["completion_tokens"])


class _Lengths:
    """A logits processor: ends each row at its length, and not before."""

    def __init__(self, lengths: Sequence[int], context: int, end: int) -> None:
        self._lengths, self._context, self._end = torch.tensor(lengths), context, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        over = self._lengths <= input_ids.shape[1] - self._context + 1
        scores[:, self._end] = -torch.inf
        scores[over] = -torch.inf
        scores[over, self._end] = 0
        return scores


def _generate(policy: Policy, batch: Batch) -> float:
    """Tokens a second of `model.generate` as GRPOTrainer calls it: every row of its own, left-padded."""
    longest = max(map(len, batch.rows))
    ids = torch.tensor([[policy.pad_id] * (longest - len(row)) + list(row) for row in batch.rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch.rows])
    limit, processors = policy.max_new_tokens, []
    if batch.lengths:
        limit = max(batch.lengths)
        processors.append(_Lengths(batch.lengths, longest, policy.end_ids[0]))
    started = time.perf_counter()
    with torch.no_grad():
        found = policy.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=limit,
            eos_token_id=list(policy.end_ids),
            pad_token_id=policy.pad_id,
            logits_processor=processors,
        )
    seconds = time.perf_counter() - started
    written = sum(batch.lengths) if batch.lengths else int((found[:, longest:] != policy.pad_id).sum())
    return written / seconds


def _work(policy: Policy, batch: Batch, speed: float) -> float:
    """Floating-point operations of matrix products a second, at `speed` tokens written a second: those of each token
    written, and of each distinct request once."""
    weights = sum(p.numel() for p in policy.model.parameters() if p.ndim == 2)  # tied embeddings: the head's
    written = sum(batch.lengths) if batch.lengths else len(batch.rows) * policy.max_new_tokens
    read = sum(map(len, set(batch.rows)))
    return 2 * weights * (written + read) / written * speed


@torch.inference_mode()
def matmul_limit(policy: Policy, rows: int) -> float:
    """Operations a second of the model's own linear layers on this many rows, one after another and nothing else."""
    shapes = [tuple(p.shape) for p in policy.model.parameters() if p.ndim == 2]
    weights = [torch.randn(shape) for shape in shapes]
    inputs = [torch.randn(rows, shape[1]) for shape in shapes]
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        for x, w in zip(inputs, weights, strict=True):
            torch.nn.functional.linear(x, w)
        operations = sum(2 * rows * a * b for a, b in shapes)
        best = max(best, operations / (time.perf_counter() - started))
    return best
