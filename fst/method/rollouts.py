"""Rollouts: the policy answers problems under prompts, and the domain's verifier scores the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fst.data.scoring import cut_off
from fst.data.types import Problem, Verifier
from fst.models.policy import Policy
from fst.models.sampler import Answer
from fst.types import Prompt, Purpose, Rollout

Pair = tuple[Prompt, Problem]


@dataclass(frozen=True)
class Asker:
    """The policy that answers and the verifier that scores, for one purpose. `weights` is the number of RL steps that
    the policy has taken (see Rollout)."""

    policy: Policy
    verify: Verifier
    purpose: Purpose
    weights: int

    def ask(self, pairs: Sequence[Pair], samples: int, seed: int) -> list[Rollout]:
        """Sample and score `samples` answers per (prompt, problem) pair, in one batch; rollouts in the pairs' order."""
        requests = [self.policy.messages(prompt.text, problem.question) for prompt, problem in pairs]
        groups = self.policy.answer(requests, samples, seed)
        return [
            self.score(prompt, problem, answer)
            for (prompt, problem), answers in zip(pairs, groups, strict=True)
            for answer in answers
        ]

    def score(self, prompt: Prompt, problem: Problem, answer: Answer) -> Rollout:
        """Score an answer and make a rollout of it. If the answer was cut off, its feedback says so."""
        score, cut = self.verify(problem, answer.text), self.policy.cut(answer)
        says = cut and score.reward < 1
        feedback = cut_off(score.feedback, self.policy.max_new_tokens) if says else score.feedback
        return Rollout(
            self.purpose,
            problem.id,
            prompt.id,
            self.weights,
            answer.text,
            answer.tokens,
            answer.logprobs,
            score.reward,
            feedback,
            cut=cut,
            read=score.read,
        )
