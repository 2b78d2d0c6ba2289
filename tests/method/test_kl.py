"""KL from the base. The invariants:

m1  token_kl is KL(trained || base) in nats over the whole vocabulary, never negative, zero for equal logits
m2  mean_kl is its mean over all answer tokens, whatever the batches and the padding
m3  exactly zero before training, and for no tokens
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fst.method.kl import mean_kl, token_kl
from fst.models.policy import Policy
from support.slow_toys import PROBLEMS, Watched, drawn, population

CONTEXTS = [[3, 137, 148, 4, 18, 246, 5], [3, 9, 5], [4, 114, 155, 143, 238, 248, 11, 5], [4, 60, 5]]
ANSWERS = [[10, 40, 30], [50], [], [70, 20, 90, 45, 101, 99, 23]]


@pytest.mark.parametrize(
    ("trained", "base", "nats"),
    [
        ([1 / 2, 1 / 2], [1 / 4, 3 / 4], math.log(4 / 3) / 2),
        ([1 / 4, 3 / 4], [1 / 2, 1 / 2], math.log(27 / 16) / 4),
        ([1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2], math.log(2) / 4),
        ([1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 3, 1 / 6], math.log(4 / 3) / 3),
    ],
)
def test_m1_worked_out_by_hand(trained: list[float], base: list[float], nats: float) -> None:
    found = token_kl(torch.tensor(trained).log() + 5, torch.tensor(base).log() - 2)
    assert float(found) == pytest.approx(nats, abs=1e-6)


def test_m1_one_value_a_token() -> None:
    trained = torch.tensor([[[1.0, 1.0], [1.0, 3.0]]]).log()
    base = torch.tensor([[[1.0, 3.0], [1.0, 1.0]]]).log()
    assert token_kl(trained, base).tolist() == [pytest.approx([math.log(4 / 3) / 2, math.log(27 / 16) / 4], abs=1e-6)]


logits = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


@given(logits, logits)
def test_m1_never_negative(trained: list[float], base: list[float]) -> None:
    assert float(token_kl(torch.tensor(trained), torch.tensor(base))) >= -1e-5
    assert float(token_kl(torch.tensor(trained), torch.tensor(trained))) == 0.0


def brute_force(policy: Policy) -> float:
    """Token by token, context by context, no batch, no padding, in double precision."""
    values = []
    for context, answer in zip(CONTEXTS, ANSWERS, strict=True):
        for t in range(len(answer)):
            ids = torch.tensor([context + answer[:t]])
            with torch.no_grad():
                trained = policy.model(input_ids=ids).logits[0, -1].double().softmax(-1)
                with policy.frozen_base():
                    base = policy.model(input_ids=ids).logits[0, -1].double().softmax(-1)
            values.append(sum(float(p) * math.log(float(p) / float(q)) for p, q in zip(trained, base, strict=True)))
    return sum(values) / len(values)


@pytest.mark.parametrize("limit", [8192, 2000, 20, 1])
def test_m2_equals_a_plain_loop(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("fst.models.likelihood.MAX_TOKENS", limit)
    monkeypatch.setattr("fst.models.likelihood.MAX_LOGITS", limit)
    Watched(policy, tmp_path).perturb()
    expected = brute_force(policy)
    assert expected > 0.001
    assert mean_kl(policy, CONTEXTS, ANSWERS) == pytest.approx(expected, rel=1e-4)


def test_m2_training_moves_it(policy: Policy, tmp_path: Path) -> None:
    slow = Watched(policy, tmp_path, warmup_steps=0, learning_rate=1e-2)
    slow.script = [drawn(policy, [5] * 12, seed) for seed in range(2)]
    slow.train_step(population(2), PROBLEMS[:3])
    first = mean_kl(policy, CONTEXTS, ANSWERS)
    slow.train_step(population(2), PROBLEMS[3:6])
    assert mean_kl(policy, CONTEXTS, ANSWERS) > first > 0


def test_m3_zero_before_training(policy: Policy, tmp_path: Path) -> None:
    assert mean_kl(policy, CONTEXTS, ANSWERS) == 0.0
    Watched(policy, tmp_path)
    assert mean_kl(policy, CONTEXTS, ANSWERS) == 0.0


def test_m3_zero_for_no_tokens(policy: Policy, tmp_path: Path) -> None:
    Watched(policy, tmp_path).perturb()
    assert mean_kl(policy, [], []) == 0.0
    assert mean_kl(policy, CONTEXTS, [[]] * 4) == 0.0
