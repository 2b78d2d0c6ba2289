"""Measurement of a policy under a prompt: accuracy, KL and cost on held-out problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fst.config import EvaluateParams
from fst.data.types import Problem
from fst.method.kl import mean_kl
from fst.models.policy import Policy
from fst.types import Prompt, Rollout


@dataclass(frozen=True)
class Evaluation:
    """The figures of a policy under a prompt: mean@n (`accuracy`) with its standard error over problems (0 for a single
    problem); KL from the base in nats per token, with the evaluated prompt in context (`kl`) and with the seed prompt
    (`kl_seed_prompt`); tokens read and written per answer; the mean reward of each problem by its id; and whether every
    reward was 0 or 1 (`binary`): otherwise the mean reward is not an accuracy."""

    accuracy: float
    stderr: float
    kl: float = 0.0
    kl_seed_prompt: float = 0.0
    tokens_per_answer: float = 0.0
    problems: dict[str, float] = field(default_factory=dict)
    binary: bool = True

    @property
    def mean(self) -> str:
        """The mean with its standard error, as text."""
        if self.binary:
            return f"{100 * self.accuracy:.1f}% (± {100 * self.stderr:.1f})"
        return f"mean reward {self.accuracy:.3f} (± {self.stderr:.3f})"


def mean_at(rollouts: Sequence[Rollout], samples: int) -> Evaluation:
    """Compute mean@samples, the mean over problems of each problem's mean reward, without KL and token counts. Rollouts
    come `samples` per problem, in the problems' order."""
    groups = [rollouts[i : i + samples] for i in range(0, len(rollouts), samples)]
    means = [sum(r.reward for r in group) / samples for group in groups]
    accuracy = sum(means) / len(means)
    variance = sum((m - accuracy) ** 2 for m in means) / max(1, len(means) - 1)
    problems = {group[0].problem_id: mean for group, mean in zip(groups, means, strict=True)}
    binary = all(r.reward in (0, 1) for r in rollouts)
    return Evaluation(accuracy, math.sqrt(variance / len(means)), problems=problems, binary=binary)


@dataclass(frozen=True)
class Meter:
    """Makes an Evaluation of rollouts under a prompt. `moved` is whether the policy has an adapter that differs from
    the base; if not, the KL is 0 and is not computed."""

    policy: Policy
    params: EvaluateParams
    seed_prompt: Prompt
    moved: bool

    def read(self, prompt: Prompt, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> Evaluation:
        """Evaluate rollouts under a prompt, `params.samples` per problem and in the problems' order. KL is computed on
        the first answer to each of the first `params.kl_problems` problems."""
        samples, probes = self.params.samples, problems[: self.params.kl_problems]
        answers = [rollouts[i * samples].tokens for i in range(len(probes))]
        kl = [
            mean_kl(self.policy, self._contexts(text, probes), answers) if self.moved else 0.0
            for text in dict.fromkeys((prompt.text, self.seed_prompt.text))
        ]
        written = sum(len(r.tokens) for r in rollouts) / len(rollouts)
        read = sum(map(len, self._contexts(prompt.text, problems))) / len(problems)
        return replace(
            mean_at(rollouts, samples), kl=kl[0], kl_seed_prompt=kl[-1], tokens_per_answer=round(read + written, 3)
        )

    def _contexts(self, prompt: str, problems: Sequence[Problem]) -> list[list[int]]:
        return self.policy.encode([self.policy.messages(prompt, p.question) for p in problems])
