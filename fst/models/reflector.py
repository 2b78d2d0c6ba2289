"""Reflectors read feedback and write the next prompt.

`PolicyReflector` uses the policy's own frozen base (the paper reflects with a frozen LLM). It draws many proposals,
which cost no rollout, and screens them by the likelihood that the policy gives to the expected answers under each, in
batched forward passes. `CallableReflector` wraps any `str -> str`, such as an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from fst.data.lab.corpus import induction_request
from fst.data.scoring import parse_feedback
from fst.models.policy import Message, Policy
from fst.models.screening import answer_likelihoods
from fst.types import Origin

INDUCTION_SYSTEM = "write the instruction"
FEEDBACK_TEMPLATE = """You improve the instruction that a language model is given for a task.

Current instruction:
```
{current}
```

Problems it was given, its answers, and feedback:

{feedback}

Work out from them what the task really is and write a better instruction. Put only the new instruction, \
between lines of three backticks."""


@dataclass(frozen=True)
class Proposal:
    """A proposed prompt and what finding it cost: proposals drawn, distinct ones screened, tokens that the screening
    read, seconds."""

    text: str
    drawn: int = 1
    screened: int = 0
    tokens: int = 0
    seconds: float = 0.0
    origin: Origin = "reflection"


class Reflector(Protocol):
    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """A prompt, none of `avoid`, that should do better than `current` on the problems in `feedback`.

        `evidence` is further feedback that has been paid for already, to check proposals on. An empty text means that
        there is nothing to propose."""
        ...


def feedback_request(current: str, feedback: Sequence[str]) -> str:
    """The reflection request for a general LLM."""
    return FEEDBACK_TEMPLATE.format(current=current, feedback="\n\n".join(feedback))


def extract_prompt(reply: str) -> str:
    """The text between the last pair of triple backticks, without a language tag; else the whole reply."""
    fenced = re.findall(r"```[a-z]*\n?(.*?)```", reply, re.DOTALL)
    return (fenced[-1] if fenced else reply).strip()


@dataclass
class CallableReflector:
    """Reflects with a callable from request to reply, such as fst.models.endpoint.EndpointReflector. Its exceptions are
    passed on: the fast round counts a ReflectorError and goes on."""

    call: Callable[[str], str]

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        started = time.monotonic()
        text = extract_prompt(str(self.call(feedback_request(current, feedback)) or ""))
        return Proposal("" if text in avoid else text, seconds=time.monotonic() - started)

    @property
    def usage(self) -> dict[str, float]:
        """Calls and tokens so far, where the callable counts them."""
        counted = getattr(self.call, "usage", None)
        return dict(counted.as_dict()) if counted else {}


@dataclass
class PolicyReflector:
    """Reflects with the policy: its frozen base, or its current weights where `weights` is "current".

    `style` "pairs" asks for a rule behind (input, expected) pairs, each request with its own random subset of at most
    `max_pairs` pairs and about `max_request_tokens` tokens; "feedback" asks with the full text, like a general LLM. All
    distinct proposals are screened on the feedback, the best `finalists` once more on all the evidence.
    """

    policy: Policy
    proposals: int = 128
    max_new_tokens: int = 64
    temperature: float = 1.0
    style: str = "pairs"
    weights: str = "base"
    max_pairs: int = 6
    max_request_tokens: int = 160
    finalists: int = 12

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        started = time.monotonic()
        pairs = [pair for pair in map(parse_feedback, feedback) if pair is not None]
        requests = self._requests(current, feedback, pairs, random.Random(seed))
        if not requests:
            return Proposal("", drawn=0)
        per_request = max(1, self.proposals // len(requests))
        with self.policy.frozen_base() if self.weights == "base" else nullcontext():
            groups = self.policy.answer(requests, per_request, seed, self.temperature, self.max_new_tokens)
        drawn = [answer.text for group in groups for answer in group]
        texts = [extract_prompt(text) for text in drawn]
        distinct = [t for t in dict.fromkeys(texts) if t and t not in avoid]
        first, tokens = self._screen(distinct, pairs)
        ahead = sorted(distinct, key=lambda t: -first[t])[: self.finalists]
        proven = pairs + [pair for pair in map(parse_feedback, evidence) if pair is not None]
        likelihood, more = self._screen(ahead, proven)
        best = max(ahead, key=likelihood.__getitem__, default="")
        return Proposal(best, len(drawn), len(distinct), tokens + more, time.monotonic() - started)

    def _requests(
        self, current: str, feedback: Sequence[str], pairs: Sequence[tuple[str, str]], rng: random.Random
    ) -> list[list[Message]]:
        if self.style == "feedback":
            return [[{"role": "user", "content": feedback_request(current, feedback)}]]
        if not pairs:
            return []
        requests = []
        for _ in range(max(1, self.proposals // 8)):
            chosen = rng.sample(list(pairs), min(len(pairs), rng.randint(3, self.max_pairs)))
            while len(chosen) > 1 and self.policy.count_tokens(induction_request(chosen)) > self.max_request_tokens:
                chosen.pop()
            requests.append(self.policy.messages(INDUCTION_SYSTEM, induction_request(chosen)))
        return requests

    def _screen(self, texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, float], int]:
        """Mean log-likelihood of the expected answers under each text, in nats, and the tokens read for it."""
        if not texts or not pairs:
            return dict.fromkeys(texts, 0.0), 0
        logprobs, tokens = answer_likelihoods(self.policy, [(text, q, a) for text in texts for q, a in pairs])
        n = len(pairs)
        return {text: sum(logprobs[i * n : (i + 1) * n]) / n for i, text in enumerate(texts)}, tokens
