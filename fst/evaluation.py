"""Accuracy figures from evaluation rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fst.types import Rollout


@dataclass(frozen=True)
class Evaluation:
    """mean@n with its standard error over problems, and drift in nats a token with the evaluated prompt in
    context (`kl`) and with the seed prompt (`kl_seed_prompt`)."""

    accuracy: float
    stderr: float
    kl: float
    kl_seed_prompt: float


def mean_at(rollouts: Sequence[Rollout], samples: int, kl: float = 0.0, kl_seed_prompt: float = 0.0) -> Evaluation:
    """mean@samples: the mean over problems of each problem's mean reward; rollouts come `samples` a problem."""
    means = [sum(r.reward for r in rollouts[i : i + samples]) / samples for i in range(0, len(rollouts), samples)]
    accuracy = sum(means) / len(means)
    variance = sum((m - accuracy) ** 2 for m in means) / max(1, len(means) - 1)
    return Evaluation(accuracy, math.sqrt(variance / len(means)), kl, kl_seed_prompt)
