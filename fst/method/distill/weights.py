"""FST-distill: train the adapter to answer under the seed prompt as it did under an evolved one. Not in the paper.

The teacher is the policy that the run begins with, frozen, with the evolved prompt in context; the student is the
adapter in training with the seed prompt. In each step the student samples answers, and the loss is the mean, over all
tokens of these answers, of KL(teacher || student) given the same answer prefix: exact, over the whole vocabulary at
T=1, in nats. Answers are scored and counted as in an RL step, but the reward is not in the loss.
Batches, optimizer, warm-up, clipping and checkpoints are those of the slow weights.

Invariants (tests/method/test_distill.py): W1 the teacher never moves, and nothing but the adapter learns; W2 the loss
is 0 where both are the same policy under the same prompt; W3 loss and gradient do not depend on how rows are cut into
slices; W4 a population that has only the seed prompt is refused; W5 a run that was interrupted ends
with the same weights.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

from fst.data.types import Problem
from fst.errors import ConfigError
from fst.method.kl import token_kl
from fst.method.rollouts import Asker
from fst.method.run import ranks
from fst.method.slow.reuse import Spare
from fst.method.slow.weights import SlowWeights, StepResult
from fst.models.likelihood import chunks, head_logits, states_of
from fst.models.policy import Policy
from fst.models.slices import slices
from fst.types import Population, Prompt, Rollout

TEACHER = "teacher"  # PEFT's name of the frozen adapter
Tokens = Sequence[int]


class DistilledWeights(SlowWeights):
    """Slow weights whose steps are distillation instead of RL."""

    def teach(self, prompt: Prompt, adapter: Path | None) -> None:
        """Set the teacher: a prompt with the adapter in a folder, or with the base model if that is None. Raises
        ConfigError if several processes train."""
        if ranks.world() > 1:
            raise ConfigError("arm distill: runs in one process; start it without a launcher")
        self.prompt, self.taught = prompt, adapter is not None
        if adapter:
            self.policy.model.load_adapter(str(adapter), TEACHER, is_trainable=False)
            self.policy.model.set_adapter("default")

    @contextlib.contextmanager
    def teacher(self) -> Iterator[None]:
        """Switch the policy to the teacher's weights inside the block."""
        if not self.taught:
            with self.policy.frozen_base():
                yield
            return
        self.policy.model.set_adapter(TEACHER, inference_mode=True)
        try:
            yield
        finally:
            self.policy.model.set_adapter("default")

    def train_step(
        self, population: Population, problems: Sequence[Problem], spare: Spare | None = None, temperature: float = 1.0
    ) -> tuple[StepResult, list[Rollout]]:
        """Take one optimizer step towards the teacher on G answers per problem, under the population's best prompt. The
        result's loss is the KL before the step, in nats per token; every group counts as having signal. `spare` and
        `temperature` are ignored: nothing is reused, and answers are sampled at temperature 1."""
        started, group, trainer = time.monotonic(), self.params.group_size, self.trainer
        asker = Asker(self.policy, self.verify, "train", self.step)
        seed = hash((self.seed, 1, self.step, 0)) % 2**63
        rollouts = asker.ask([(population.best, problem) for problem in problems], group, seed)
        self.policy.engine.rest()
        rows = [problem for problem in problems for _ in range(group)]
        kl = self._backward(population.best, rows, [rollout.tokens for rollout in rollouts])
        norm = trainer.accelerator.clip_grad_norm_(
            trainer.model.parameters(), self.params.max_grad_norm or float("inf")
        )
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        trainer.model.zero_grad()
        self.step += 1
        trainer.state.global_step = self.step
        reward = sum(rollout.reward for rollout in rollouts) / len(rollouts)
        seconds = time.monotonic() - started
        return StepResult(reward, len(problems), len(problems), kl, float(norm), seconds), rollouts

    @torch.no_grad()
    def apart(self, prompt: Prompt, problems: Sequence[Problem], answers: Sequence[Tokens]) -> float:
        """Mean KL(teacher || student) on the student's answers to these problems under a prompt, in nats per token."""
        return sum(float(kl) for kl in self._divergences(prompt, problems, answers)) / max(1, sum(map(len, answers)))

    def _backward(self, prompt: Prompt, problems: Sequence[Problem], answers: Sequence[Tokens]) -> float:
        """Accumulate the gradient of the mean KL, slice by slice; returns the mean."""
        tokens, total = max(1, sum(map(len, answers))), 0.0
        for kl in self._divergences(prompt, problems, answers):
            self.trainer.accelerator.backward(kl / tokens)
            total += float(kl.detach())
        return total / tokens

    def _divergences(
        self, prompt: Prompt, problems: Sequence[Problem], answers: Sequence[Tokens]
    ) -> Iterator[torch.Tensor]:
        """The sum of the token KLs of each slice."""
        student, teacher = (_contexts(self.policy, one, problems) for one in (prompt, self.prompt))
        widest = [max(pair, key=len) for pair in zip(student, teacher, strict=True)]
        model, pad = self.policy.model, self.policy.pad_id
        for rows in slices(widest, [len(answer) for answer in answers], self.params.micro_tokens, self.tree):
            spoken = [answers[row] for row in rows]
            with self.trainer.accelerator.autocast():
                with torch.no_grad(), self.teacher():
                    wanted = states_of(model, [teacher[row] for row in rows], spoken, pad)
                    targets = [head_logits(model, wanted[part]) for part in chunks(model, len(wanted))]
                given = states_of(model, [student[row] for row in rows], spoken, pad)
                parts = zip(chunks(model, len(given)), targets, strict=True)
                sums = [checkpoint(self._kl, target, given[part], use_reentrant=False) for part, target in parts]
            yield torch.stack(sums).sum()

    def _kl(self, target: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Sum of the token KLs of a chunk. Recomputed in the backward pass, so that logits need not be kept."""
        return token_kl(target, head_logits(self.policy.model, states)).sum()


def _contexts(policy: Policy, prompt: Prompt, problems: Sequence[Problem]) -> list[list[int]]:
    return policy.encode([policy.messages(prompt.text, problem.question) for problem in problems])


def prompt_to_distil(population: Population, seed_prompt: Prompt, domain: str) -> Prompt:
    """Return the prompt to move into the weights. Raises ConfigError if the best prompt is the seed prompt."""
    if population.best.id == seed_prompt.id:
        raise ConfigError(
            f"{domain}: the best prompt is the seed prompt, {seed_prompt.text!r}, so there is nothing to move into the "
            "weights; distil a run that evolved one (`fst distill RUN`, or train.arm=distill on a bundle that has one)"
        )
    return population.best
