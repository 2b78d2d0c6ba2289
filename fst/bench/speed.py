"""Speed against the plain libraries, in the same run on the same machine: ratios, because machines differ."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from fst.config import Params
from fst.data.domains import load_domain
from fst.data.types import Domain, Problem, SplitSizes
from fst.method.slow import SlowWeights
from fst.method.slow_trl import plain_step_seconds
from fst.models.policy import Policy, load_policy
from fst.types import Population, Prompt

DOMAIN = "lab/sort_desc+add_one"
# Prompts of one length, so that plain TRL, which has one, reads as many tokens as we do with four.
PROMPTS = (
    "put the digits in decreasing order, then increase each digit by one",
    "put the digits in increasing order, then increase each digit by one",
    "put the digits in decreasing order, then decrease each digit by one",
    "put the digits in increasing order, then decrease each digit by one",
)
PAIRS = 200


def speed(steps: int, blocks: int = 3) -> Iterator[str]:
    """Lines of two comparisons: an RL step against plain GRPOTrainer's, and one fast round's generation
    against `model.generate` as TRL calls it. Both alternate in blocks, medians are compared."""
    params = Params()
    torch.set_num_threads(params.model.threads)
    domain = load_domain(DOMAIN, SplitSizes(1024, 1, 1), seed=0)
    ours: list[float] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for block in range(blocks):
            ours += _our_steps(params, domain, Path(folder), steps)
            plain += plain_step_seconds(_policy(params), params, domain.train, PROMPTS[0], Path(folder), steps)
            yield f"block {block + 1} of {blocks}: {_compared(ours, plain)}"
    rows = f"{params.slow.problems_per_step} problems x {params.slow.group_size}"
    yield f"RL step of {rows}: {_compared(ours, plain)} (target: ratio <= 1.10)"
    mine, generate = _generation(_policy(params), domain.train)
    yield (
        f"fast round of {PAIRS} (prompt, problem) pairs: ours {mine:.2f} s of generation (target <= 2 s), "
        f"model.generate {generate:.2f} s, ratio {mine / generate:.2f}"
    )


def _compared(ours: Sequence[float], plain: Sequence[float]) -> str:
    mine, theirs = statistics.median(ours), statistics.median(plain)
    return f"ours {mine:.3f} s, plain GRPOTrainer {theirs:.3f} s a step, ratio {mine / theirs:.2f}"


def _policy(params: Params) -> Policy:
    return load_policy(params.model)


def _our_steps(params: Params, domain: Domain, folder: Path, steps: int) -> list[float]:
    slow = SlowWeights(_policy(params), params.slow, params.model, domain.verify, folder, seed=0)
    population = Population(tuple(Prompt(text) for text in PROMPTS))
    size = params.slow.problems_per_step
    return [slow.train_step(population, domain.train[i * size : (i + 1) * size])[0].seconds for i in range(steps)][1:]


def _generation(policy: Policy, problems: Sequence[Problem]) -> tuple[float, float]:
    rng = random.Random(0)
    pairs = [(rng.choice(PROMPTS), rng.choice(problems).question) for _ in range(PAIRS)]
    requests = policy.encode([policy.messages(prompt, question) for prompt, question in pairs])
    mine, generate = [], []
    for seed in range(5):
        started = time.monotonic()
        policy.answer_ids(requests, 1, seed)
        mine.append(time.monotonic() - started)
        generate.append(_plain_generate(policy, requests))
    return statistics.median(mine), statistics.median(generate)


@torch.no_grad()
def _plain_generate(policy: Policy, requests: Sequence[Sequence[int]]) -> float:
    longest = max(map(len, requests))
    ids = torch.tensor([[policy.pad_id] * (longest - len(r)) + list(r) for r in requests])
    started = time.monotonic()
    policy.model.generate(
        input_ids=ids,
        attention_mask=(ids != policy.pad_id).long(),
        do_sample=True,
        top_k=0,
        max_new_tokens=policy.max_new_tokens,
        pad_token_id=policy.pad_id,
    )
    return time.monotonic() - started
