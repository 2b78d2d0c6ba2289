"""Measuring what would be served: an adapter under each domain's prompts, on the domains' held-out problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fst.config import Params
from fst.data.domains import seed_prompt
from fst.data.types import Domain
from fst.method.evaluation import Evaluation, Meter
from fst.method.lengths import readable
from fst.method.rollouts import Asker
from fst.models.adapter import attach_adapter
from fst.models.engines.registry import load_with_engine
from fst.models.policy import Policy
from fst.types import Prompt

SPLIT = "test"
_SEED = 0  # every candidate meets the same draws


@dataclass(frozen=True)
class Served:
    """A policy as it would be served: base model and adapter (None: the base alone)."""

    policy: Policy
    params: Params
    adapter: Path | None

    @classmethod
    def load(cls, params: Params, adapter: Path | None) -> Served:
        torch.set_num_threads(params.model.threads)
        policy = load_with_engine(params)
        if adapter:
            policy.model = attach_adapter(policy.model, adapter)
        return cls(policy, params, adapter)

    def measure(self, domain: Domain, prompt: Prompt) -> Evaluation:
        """mean@n and KL on the domain's held-out problems."""
        problems, samples = readable(self.policy, domain.test, self.params), self.params.evaluate.samples
        asker = Asker(self.policy, domain.verify, "eval", weights=0)
        rollouts = asker.ask([(prompt, problem) for problem in problems], samples, _SEED)
        seed = Prompt(seed_prompt(self.params.loop.seed_prompt, domain))
        meter = Meter(self.policy, self.params.evaluate, seed, moved=self.adapter is not None)
        return meter.read(prompt, problems, rollouts)

    def traffic(self, domain: Domain, prompt: Prompt) -> list[dict[str, Any]]:
        """What serving the domain's validation problems looks like, a row an answer: what live traffic is compared
        with. `tokens` counts those written; `finish` is "length" for an answer that was cut off, else "stop"."""
        problems, samples = readable(self.policy, domain.validation, self.params), self.params.evaluate.samples
        asker = Asker(self.policy, domain.verify, "eval", weights=0)
        rollouts = asker.ask([(prompt, problem) for problem in problems], samples, _SEED)
        questions = {problem.id: problem.question for problem in problems}
        return [
            {
                "question": questions[r.problem_id],
                "response": r.text,
                "reward": r.reward,
                "tokens": len(r.tokens),
                "finish": "length" if r.cut else "stop",
            }
            for r in rollouts
        ]

    def entry(self, prompt: Prompt, found: Evaluation, data_sha256: str) -> dict[str, Any]:
        """A domain's entry of evaluation.json, for the prompt that it is served with."""
        return {
            "split": SPLIT,
            "samples": self.params.evaluate.samples,
            "data_sha256": data_sha256,
            "prompt": prompt.id,
            "prompt_tokens": self.policy.count_tokens(prompt.text),
            "reward": round(found.accuracy, 6),
            "stderr": round(found.stderr, 6),
            "kl": round(found.kl, 6),
            "kl_seed_prompt": round(found.kl_seed_prompt, 6),
            "tokens_per_answer": found.tokens_per_answer,
            "problems": found.problems,
        }
