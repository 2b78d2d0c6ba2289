"""Demonstrations: a mutation for the fast round that needs no strong model. It adds worked examples to a prompt, drops
them, or swaps them. Examples are problems with their right answers, taken from feedback that is already paid for.

A demonstrated prompt is one text like any other, of this form:

    {instruction}

    Examples:

    Question: {question}
    Answer: {right answer}

    Question: ...

A line inside an example that looks like one of the form's own headings gets a `>` in front, as mbox files quote `From`.

Invariants, each with a test: D1 writing a prompt and reading it back gives the same parts, whatever its texts hold, and
reading a text and writing it gives the same text; D2 a proposal stays within the token cap, has at most `most` examples
and none twice; D3 no proposal is screened on a problem that it shows; D4 examples are training problems whose right
answer is known from feedback, never problems of validation or test; D5 same seed, same proposal; D6 under a proposal
the policy gives the right answers a higher likelihood than under its parent.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fst.config import FastParams
from fst.data.domains import right_answer
from fst.data.scoring import parse_feedback
from fst.data.types import Domain
from fst.models.likelihood import answer_likelihoods
from fst.models.policy import Policy
from fst.models.reflector import Proposal, Reflector
from fst.types import Population, Prompt

DRAWN = 12  # candidate prompts drawn per proposal
SCREENED = 12  # the most problems that they are screened on

_QUESTION, _ANSWER, _HEADING = "Question: ", "Answer: ", "Examples:\n\n"
_FORM = re.compile(r"(?:(.+)\n\n)?Examples:\n\nQuestion: (.*)", re.DOTALL)
_OWN = r"(?:Question: |Answer: |Examples:(?:\n|\Z))"
_UNQUOTED = re.compile(rf"(?<=\n)(?=>*{_OWN})")
_QUOTED = re.compile(rf"(?<=\n)>(?=>*{_OWN})")

Likelihoods = Callable[[Sequence[tuple[str, str, str]]], tuple[list[float], int]]  # see answer_likelihoods


@dataclass(frozen=True)
class Example:
    """A problem as a prompt shows it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Demonstrated:
    """A prompt split into its instruction and its examples."""

    instruction: str
    examples: tuple[Example, ...] = ()

    @property
    def text(self) -> str:
        """The prompt as one text."""
        if not self.examples:
            return self.instruction
        blocks = [f"{_QUESTION}{_quote(e.question)}\n{_ANSWER}{_quote(e.answer)}" for e in self.examples]
        return f"{self.instruction}\n\n" * bool(self.instruction) + _HEADING + "\n\n".join(blocks)

    @property
    def questions(self) -> frozenset[str]:
        """The questions of its examples."""
        return frozenset(example.question for example in self.examples)


def read(text: str) -> Demonstrated:
    """Split a prompt into its parts. A text that does not have the form above is all instruction."""
    if found := _FORM.fullmatch(text):
        pairs = [block.partition(f"\n{_ANSWER}") for block in found[2].split(f"\n\n{_QUESTION}")]
        examples = (Example(_unquote(question), _unquote(answer)) for question, _, answer in pairs)
        parts = Demonstrated(found[1] or "", tuple(examples))
        if parts.text == text:
            return parts
    return Demonstrated(text)


def cleared(population: Population, domain: Domain) -> Population:
    """Remove examples that are held-out problems of the domain, as can happen when a run starts from a bundle that was
    trained on other splits. A prompt that loses an example becomes the parent of what remains of it."""
    forbidden = {problem.question for problem in (*domain.validation, *domain.test)}

    def clear(prompt: Prompt) -> Prompt:
        parts = read(prompt.text)
        if not parts.questions & forbidden:
            return prompt
        left = replace(parts, examples=tuple(e for e in parts.examples if e.question not in forbidden))
        return Prompt(left.text, (prompt.id,), "demonstration", prompt.born)

    return replace(population, prompts=tuple(map(clear, population.prompts)))


@dataclass(frozen=True)
class Demonstrator:
    """Proposes prompts whose examples differ from their parent's.

    Several are drawn and screened by the likelihood of right answers, which costs no rollout. `likelihoods` takes
    (prompt, question, answer) triples and returns the log-likelihood of each answer and the number of tokens read;
    `right_answer` returns the answer that may be shown for a question, or None. A prompt has at most `most` examples
    and `most_tokens` tokens.
    """

    likelihoods: Likelihoods
    right_answer: Callable[[str], str | None]
    count_tokens: Callable[[str], int]
    most: int
    most_tokens: int

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """Propose a prompt, not in `avoid`, with the instruction of `current` and other examples. Its text is empty if
        there is nothing to propose, or nothing better than `current`.

        `feedback` is about the problems that the proposal will be tried on first: candidates are screened on them, and
        none of them becomes an example. A random half of the problems in `evidence` may become examples; candidates
        are screened on the other half too.
        """
        started, rng = time.monotonic(), random.Random(seed)
        whole = read(current)
        parent = _with(whole, whole.examples[: self.most])
        asked = self._examples(feedback, whole.examples)
        known = self._examples(evidence, (*whole.examples, *asked))
        rng.shuffle(known)
        half = (len(known) + 1) // 2
        pool, judged = known[:half], [*asked, *known[half:]][:SCREENED]
        drawn = [text for _ in range(DRAWN) if (text := self._mutated(parent, pool, rng).text) != current]
        texts = [t for t in dict.fromkeys(drawn) if t not in avoid and self._fits(t)]
        best, tokens = "", 0
        if texts and judged:
            asks = [(text, e.question, e.answer) for text in (current, *texts) for e in judged]
            logprobs, tokens = self.likelihoods(asks)
            sums = [sum(logprobs[at : at + len(judged)]) for at in range(0, len(asks), len(judged))]
            best = ("", *texts)[max(range(len(sums)), key=sums.__getitem__)]
        return Proposal(best, len(drawn), len(texts), tokens, time.monotonic() - started, "demonstration")

    def reworded(self, current: str, instruction: str) -> str:
        """Join this instruction with the examples of `current`, leaving out the last ones if they do not all fit."""
        parts = _with(Demonstrated(instruction), read(current).examples)
        while parts.examples and not self._fits(parts.text):
            parts = _with(parts, parts.examples[:-1])
        return parts.text

    def _examples(self, feedback: Sequence[str], but: Sequence[Example]) -> list[Example]:
        """The problems whose right answer the feedback states, without repeats and without the questions in `but`."""
        told = dict.fromkeys(pair[0] for pair in map(parse_feedback, feedback) if pair)
        fresh = [question for question in told if question not in {example.question for example in but}]
        answers = {question: self.right_answer(question) for question in fresh}
        return [Example(question, answer) for question, answer in answers.items() if answer and answer.strip()]

    def _mutated(self, parent: Demonstrated, pool: Sequence[Example], rng: random.Random) -> Demonstrated:
        """The parent with one change to its examples, or the parent itself if none is possible."""
        examples, room = list(parent.examples), self.most - len(parent.examples)
        kinds = ["add"] * bool(pool and room > 0) + ["drop"] * bool(examples) + ["swap"] * bool(pool and examples)
        kind = rng.choice(kinds) if kinds else ""
        if kind == "add":
            examples += rng.sample(pool, min(len(pool), rng.randint(1, room)))
            while len(examples) > len(parent.examples) + 1 and not self._fits(_with(parent, examples).text):
                examples.pop()
        elif kind == "drop":
            del examples[rng.randrange(len(examples))]
        elif kind == "swap":
            examples[rng.randrange(len(examples))] = rng.choice(pool)
        return _with(parent, examples)

    def _fits(self, text: str) -> bool:
        return self.count_tokens(text) <= self.most_tokens


@dataclass
class Alternating:
    """A reflector that alternates reflection with demonstrations. Reflection rewrites a prompt's instruction and keeps
    its examples; it also takes the turn of a demonstration that finds nothing."""

    reflector: Reflector
    demonstrator: Demonstrator
    turn: int = 0

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """Propose a prompt, not in `avoid`, by the operator whose turn it is. Raises what the reflector raises."""
        self.turn += 1
        tried = Proposal("", drawn=0)
        if self.turn % 2 == 0:
            tried = self.demonstrator.propose(current, feedback, evidence, avoid, seed)
            if tried.text:
                return tried
        found = self.reflector.propose(read(current).instruction, feedback, evidence, avoid, seed)
        text = found.text.strip()
        return replace(
            found,
            text=self.demonstrator.reworded(current, text) if text else "",
            drawn=tried.drawn + found.drawn,
            screened=tried.screened + found.screened,
            tokens=tried.tokens + found.tokens,
            seconds=tried.seconds + found.seconds,
        )

    def check(self) -> None:
        """See Reflector.check."""
        self.reflector.check()

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """The reflector's own usage figures, if it keeps any."""
        return getattr(self.reflector, "usage", None)


def demonstrating(reflector: Reflector, policy: Policy, domain: Domain, params: FastParams) -> Reflector:
    """Wrap the reflector so that it alternates with demonstrations, screened by the current policy. Returns it as it is
    if `fast.demonstrations` is 0."""
    if not params.demonstrations:
        return reflector
    training = {problem.question: problem for problem in domain.train}

    def right(question: str) -> str | None:
        return right_answer(domain, training[question]) if question in training else None

    most, most_tokens = params.demonstrations, params.max_prompt_tokens
    likelihoods = partial(answer_likelihoods, policy)
    return Alternating(reflector, Demonstrator(likelihoods, right, policy.count_tokens, most, most_tokens))


def _with(parent: Demonstrated, examples: Sequence[Example]) -> Demonstrated:
    return replace(parent, examples=tuple(examples))


def _quote(text: str) -> str:
    return _UNQUOTED.sub(">", text)


def _unquote(text: str) -> str:
    return _QUOTED.sub("", text)
