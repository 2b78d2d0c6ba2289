"""Reflectors read feedback and write the next prompt.

`PolicyReflector` uses the policy's own frozen base (the paper reflects with a frozen LLM). It draws several proposals,
which cost no rollout, and screens them by the likelihood that the policy gives to the expected answers under each, if
that predicts the reward. `CallableReflector` wraps any `str -> str`, such as an endpoint.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

from fst.data.lab.corpus import induction_request
from fst.data.scoring import parse_feedback
from fst.errors import ReflectorError
from fst.models.likelihood import answer_likelihoods
from fst.models.policy import Message, Policy
from fst.models.reply import extract_prompt
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
TOO_LONG = """

You have answered this before with the instruction

```
{text}
```

which is too long: it has {tokens} tokens. Write a shorter one. {limit}"""
SHORT_ANSWER = 32  # tokens of an expected answer that proposals are screened on
MOST_SCREENED_ON = 16  # answers, if the policy reflects in the style "feedback"


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


@dataclass(frozen=True)
class PromptLimit:
    """The longest prompt allowed, in the policy's tokens as `count` counts them."""

    tokens: int
    count: Callable[[str], int]

    def allows(self, text: str) -> bool:
        return self.count(text) <= self.tokens

    def __str__(self) -> str:
        """State the limit for a model to read, in tokens and in words; the rate is that of this file's English."""
        words = max(1, self.tokens * len(FEEDBACK_TEMPLATE.split()) // self.count(FEEDBACK_TEMPLATE))
        return f"It may have at most {self.tokens} tokens, about {words} words."


class Reflector(Protocol):
    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """Propose a prompt that should do better than `current` on the problems in `feedback`.

        `evidence` is further feedback, already paid for, to check proposals on. An empty text means that there is
        nothing to propose; a text in `avoid`, or one that is too long, means that there is nothing better. The round
        refuses and counts all of these."""
        ...

    def check(self) -> None:
        """Check that the reflector answers, before a run relies on it. Raises ReflectorError, which says what to
        fix."""
        ...


def feedback_request(current: str, feedback: Sequence[str], limit: PromptLimit | None = None) -> str:
    """Write the reflection request for a general LLM."""
    request = FEEDBACK_TEMPLATE.format(current=current, feedback="\n\n".join(feedback))
    return f"{request} {limit}" if limit else request


@dataclass
class CallableReflector:
    """Reflects with a callable from request to reply, such as fst.models.endpoint.EndpointReflector. If a proposal is
    over the limit, it asks once more. The callable's exceptions are passed on."""

    call: Callable[[str], str]
    limit: PromptLimit | None = None

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        started, drawn = time.monotonic(), 1
        request = feedback_request(current, feedback, self.limit)
        text = self._ask(request)
        if self.limit and not self.limit.allows(text):
            complaint = TOO_LONG.format(text=text, tokens=self.limit.count(text), limit=self.limit)
            text, drawn = self._ask(request + complaint), 2
        return Proposal(text, drawn, seconds=time.monotonic() - started)

    def _ask(self, request: str) -> str:
        return extract_prompt(str(self.call(request) or ""))

    def check(self) -> None:
        """Run the callable's own check, if it has one."""
        getattr(self.call, "check", lambda: None)()

    @property
    def usage(self) -> dict[str, float]:
        """The callable's usage so far; empty if it keeps none."""
        counted = getattr(self.call, "usage", None)
        return dict(counted.as_dict()) if counted else {}


@dataclass
class PolicyReflector:
    """Reflects with the policy: its frozen base, or its current weights if `weights` is "current".

    `style` "pairs", for the lab's base, asks for a rule behind (input, expected) pairs, each request with its own
    random subset of at most `max_pairs` pairs and about `max_request_tokens` tokens; "feedback" asks with the full
    text, like a general LLM. All distinct proposals are screened on the feedback, the best `finalists` once more on all
    the evidence. With "feedback" only short expected answers are used for that, and none if `screens` is False, that
    is, if a reward may be for more than the bare expected answer; the first proposal is then taken unscreened.
    """

    policy: Policy
    proposals: int = 128
    max_new_tokens: int = 64
    temperature: float = 1.0
    style: str = "pairs"
    weights: str = "base"
    limit: PromptLimit | None = None
    screens: bool = True
    max_pairs: int = 6
    max_request_tokens: int = 160
    finalists: int = 12

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """See Reflector.propose. Raises ReflectorError if not even one example of the feedback fits into a request."""
        started = time.monotonic()
        requests = self._requests(current, feedback, random.Random(seed))
        if not requests:
            return Proposal("", drawn=0)
        per_request = max(1, self.proposals // len(requests))
        with self.policy.frozen_base() if self.weights == "base" else nullcontext():
            groups = self.policy.answer(requests, per_request, seed, self.temperature, self.max_new_tokens)
        texts = [extract_prompt(answer.text) for group in groups for answer in group]
        distinct = [
            t for t in dict.fromkeys(texts) if t and t not in avoid and (not self.limit or self.limit.allows(t))
        ]
        if not distinct:
            return Proposal(next(filter(None, texts), ""), len(texts), seconds=time.monotonic() - started)
        ahead, tokens = distinct, 0
        pairs, proven = self._answers(feedback), self._answers([*feedback, *evidence])
        if len(distinct) > self.finalists:
            first, tokens = self._screen(distinct, pairs)
            ahead = sorted(distinct, key=lambda t: -first[t])[: self.finalists]
        likelihood, more = self._screen(ahead, proven)
        screened = len(distinct) if proven else 0
        best = max(ahead, key=likelihood.__getitem__)
        return Proposal(best, len(texts), screened, tokens + more, time.monotonic() - started)

    def check(self) -> None:
        """Do nothing: the policy is loaded already, and any problem shows in its first rollouts."""

    def _requests(self, current: str, feedback: Sequence[str], rng: random.Random) -> list[list[Message]]:
        if self.style == "feedback":
            return [self._fitting(current, feedback)]
        pairs = _pairs(feedback)
        if not pairs:
            return []
        requests = []
        for _ in range(max(1, self.proposals // 8)):
            chosen = rng.sample(pairs, min(len(pairs), rng.randint(3, self.max_pairs)))
            while len(chosen) > 1 and self.policy.count_tokens(induction_request(chosen)) > self.max_request_tokens:
                chosen.pop()
            requests.append(self.policy.messages(INDUCTION_SYSTEM, induction_request(chosen)))
        return requests

    def _fitting(self, current: str, feedback: Sequence[str]) -> list[Message]:
        """Make a request with as many whole examples as fit beside the reply, dropping the longest first. Raises
        ReflectorError if not even one fits."""
        context = self.policy.engine.context or self.policy.context
        chosen = list(feedback)
        while True:
            request = [{"role": "user", "content": feedback_request(current, chosen, self.limit)}]
            if context is None or len(self.policy.encode([request])[0]) + self.max_new_tokens <= context:
                return request
            if len(chosen) <= 1:
                raise ReflectorError(
                    f"the model reads {context} tokens, too few for one example of feedback beside a reply "
                    f"of {self.max_new_tokens}: lower reflector.max_new_tokens, or let an endpoint reflect "
                    "(reflector.kind)"
                )
            chosen.remove(max(chosen, key=len))

    def _answers(self, feedback: Sequence[str]) -> list[tuple[str, str]]:
        """The (question, expected) pairs to screen on."""
        if self.style == "pairs":
            return _pairs(feedback)
        short = [pair for pair in _pairs(feedback) if self.policy.count_tokens(pair[1]) <= SHORT_ANSWER]
        return short[:MOST_SCREENED_ON] if self.screens else []

    def _screen(self, texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, float], int]:
        """Mean log-likelihood of the expected answers under each text, in nats, and the tokens read for it."""
        if not texts or not pairs:
            return dict.fromkeys(texts, 0.0), 0
        logprobs, tokens = answer_likelihoods(self.policy, [(text, q, a) for text in texts for q, a in pairs])
        n = len(pairs)
        return {text: sum(logprobs[i * n : (i + 1) * n]) / n for i, text in enumerate(texts)}, tokens


def _pairs(feedback: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for pair in map(parse_feedback, feedback) if pair is not None]
