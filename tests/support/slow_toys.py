"""Toys for the tests of the slow weights: problems, a verifier, and slow weights that keep what they see."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fst.config import ModelParams, SlowParams
from fst.data.types import Problem, Score
from fst.method.slow.weights import SlowWeights
from fst.models.policy import Policy
from fst.models.sampler import Answer
from fst.types import Population, Prompt

QUESTIONS = (
    "apple pear",
    "one two three",
    "x",
    "sort the list 3 1 2",
    "a b c d",
    "9 8 7",
    "pear",
    "go on",
    "two 4 one",
)
PROBLEMS = tuple(Problem(f"p{i}", "toy", question, "") for i, question in enumerate(QUESTIONS))
PROMPTS = tuple(Prompt(text) for text in ("solve the task", "add one to each", "reverse", "sort them all first"))


def population(prompts: int) -> Population:
    return Population(PROMPTS[:prompts])


def verify(problem: Problem, answer: str) -> Score:
    """1 or 0 by a checksum of problem and answer: fixed, and mixed for any model."""
    return Score(float(zlib.crc32(f"{problem.id}/{answer}".encode()) % 2), "")


def drawn(policy: Policy, lengths: Sequence[int], seed: int = 0) -> list[Answer]:
    """Answers of these lengths in tokens, drawn uniformly from the ordinary tokens."""
    dice = random.Random(seed)
    rows = [tuple(dice.randrange(6, 200) for _ in range(length)) for length in lengths]
    return [Answer(row, (0.0,) * len(row), policy.tokenizer.decode(list(row)).strip()) for row in rows]


class Watched(SlowWeights):
    """Slow weights that answer from `script` (a list of answers a step) where there is one, take the behaviour
    policy's log-probabilities from `behaviour`, and keep the batch before and after weighing and the gradient."""

    def __init__(self, policy: Policy, folder: Path, seed: int = 0, **slow: Any) -> None:
        params = SlowParams(**{"problems_per_step": 3, "group_size": 4, "lora_rank": 4, "lora_alpha": 8, **slow})
        model = ModelParams(max_new_tokens=8, chat_template_kwargs=policy.options)
        super().__init__(policy, params, model, verify, folder, seed)
        self.script: list[list[Answer]] = []
        self.behaviour: torch.Tensor | None = None
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self.gradient: dict[str, torch.Tensor] = {}
        self.trainer.optimizer.register_step_pre_hook(self._keep_gradient)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.trainer.model.named_parameters() if p.requires_grad}

    def perturb(self, seed: int = 7, scale: float = 0.1) -> None:
        """As if trained: LoRA's B matrices start at zero, where A has no gradient and the KL is zero."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in sorted(self.parameters().items()):
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))

    def _keep_gradient(self, *_: Any) -> None:
        self.gradient = {name: p.grad.clone() for name, p in self.parameters().items() if p.grad is not None}

    def sample(self, prompt_ids: Sequence[list[int]]) -> list[Answer]:
        if not self.script:
            return super().sample(prompt_ids)
        self._batch.answers = self.script[self.step]
        return self._batch.answers

    def weigh(self, output: dict[str, Any]) -> dict[str, Any]:
        self.before = dict(output)
        if self.behaviour is not None:
            output = {**output, "old_per_token_logps": self.behaviour}
        self.after = super().weigh(output)
        return self.after
