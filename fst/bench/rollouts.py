"""`fst bench rollouts`: tokens a second of the transformers engine against `model.generate` as TRL calls it, on the
same prompts in the same run, and how near the engine comes to what this machine's matrix products reach."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import torch

from fst.bench.speed import DOMAIN, PROMPTS
from fst.config import Params
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.models.policy import Policy, load_policy


def rollouts(params: Params, blocks: int) -> Iterator[str]:
    """Lines: a training step's rollouts (16 problems, 8 answers each), then 200 distinct requests."""
    torch.set_num_threads(params.model.threads)
    policy = load_policy(params.model)
    problems = load_domain(DOMAIN, SplitSizes(400, 1, 1), seed=0).train
    step = policy.encode([policy.messages(PROMPTS[0], p.question) for p in problems[:16]])
    many = policy.encode([policy.messages(PROMPTS[i % 4], p.question) for i, p in enumerate(problems[:200])])
    for name, requests, n in (("a training step, 16 x 8", step, 8), ("200 distinct requests", many, 1)):
        ours, theirs, work = [], [], 0.0
        for block in range(blocks + 1):  # the first warms up
            tokens, seconds, work = _ours(policy, requests, n, block)
            plain_tokens, plain_seconds = _generate(policy, requests, n)
            if block:
                ours.append(tokens / seconds)
                theirs.append(plain_tokens / plain_seconds)
        mine, plain = statistics.median(ours), statistics.median(theirs)
        limit = matmul_limit(policy, len(requests) * n)
        share = work * mine / limit
        yield (
            f"{name}: ours {mine:,.0f} tokens/s, model.generate {plain:,.0f}, ratio {mine / plain:.2f} (target: >= 2); "
            f"{share:.0%} of the {limit / 1e9:.0f} GFLOP/s that matrix products of these shapes reach on "
            f"{params.model.threads} thread(s)"
        )


def _ours(policy: Policy, requests: Sequence[list[int]], n: int, seed: int) -> tuple[int, float, float]:
    """(tokens written, seconds, floating-point operations of matrix products a token written)."""
    started = time.perf_counter()
    groups = policy.answer_ids(requests, n, seed)
    seconds = time.perf_counter() - started
    written = sum(len(answer.tokens) for group in groups for answer in group)
    read = sum(map(len, requests))
    weights = sum(p.numel() for name, p in policy.model.named_parameters() if p.ndim == 2)  # embedding: the head's
    return written, seconds, 2 * weights * (written + read) / written


def _generate(policy: Policy, requests: Sequence[list[int]], n: int) -> tuple[int, float]:
    """`model.generate` as GRPOTrainer calls it: every row of its own, left-padded."""
    longest = max(map(len, requests))
    rows = [[policy.pad_id] * (longest - len(r)) + list(r) for r in requests for _ in range(n)]
    ids = torch.tensor(rows)
    started = time.perf_counter()
    with torch.no_grad():
        found = policy.model.generate(
            input_ids=ids,
            attention_mask=(ids != policy.pad_id).long(),
            do_sample=True,
            top_k=0,
            max_new_tokens=policy.max_new_tokens,
            pad_token_id=policy.pad_id,
        )
    seconds = time.perf_counter() - started
    return int((found[:, longest:] != policy.pad_id).sum()), seconds


@torch.inference_mode()
def matmul_limit(policy: Policy, rows: int) -> float:
    """Operations a second of the model's own linear layers on this many rows, one after another and nothing else."""
    shapes = [tuple(p.shape) for p in policy.model.parameters() if p.ndim == 2]
    weights = [torch.randn(shape) for shape in shapes]
    inputs = [torch.randn(rows, shape[1]) for shape in shapes]
    best = 0.0
    for _ in range(20):
        started = time.perf_counter()
        for x, w in zip(inputs, weights, strict=True):
            torch.nn.functional.linear(x, w)
        operations = sum(2 * rows * a * b for a, b in shapes)
        best = max(best, operations / (time.perf_counter() - started))
    return best
