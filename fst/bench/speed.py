"""`fst bench speed`: an RL step against plain GRPOTrainer's, on the same model, rows, LoRA and options in the same run.

Both alternate in blocks, each block in a process of its own, so that memory can be told apart; medians are compared,
as ratios, because machines differ. Answers of a pretrained model all run to the same length on both sides, and rewards
are drawn from the answer's text, so that both train on the same number of tokens.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from fst.bench.meter import Meter, memory_in_use
from fst.config import Params
from fst.data.domains import load_domain
from fst.data.types import Problem, Score, SplitSizes, Verifier
from fst.lifeline import end_with_parent
from fst.method.slow.trainer import PlainTrl
from fst.method.slow.weights import SlowWeights
from fst.models.policy import Policy, Reader, load_policy, load_reader
from fst.models.sampler import Answer
from fst.types import Population, Prompt

DOMAIN = "lab/sort_desc+add_one"
# Prompts of one length, so that plain TRL, which has one, reads as many tokens as we do with four.
PROMPTS = (
    "put the digits in decreasing order, then increase each digit by one",
    "put the digits in increasing order, then increase each digit by one",
    "put the digits in decreasing order, then decrease each digit by one",
    "put the digits in increasing order, then decrease each digit by one",
)
GIB = 2**30
_WORDS = "river stone seven green apple window letter train music paper garden silver market number winter bridge"


class Lengths(NamedTuple):
    """Tokens of a prompt, of a question and of an answer."""

    prompt: int
    question: int
    answer: int


@dataclass(frozen=True)
class Work:
    """What both sides are asked: K prompts, problems, a verifier, and whether answers run to their longest."""

    params: Params
    prompts: tuple[str, ...]
    problems: tuple[Problem, ...]
    verify: Verifier
    endless: bool

    @classmethod
    def of(cls, params: Params, lengths: Lengths | None, steps: int) -> Work:
        """A rule of the lab, or texts of the given lengths, for so many steps. Raises FstError."""
        count = params.slow.problems_per_step * steps
        if lengths is None:
            domain = load_domain(DOMAIN, SplitSizes(count, 1, 1), seed=0)
            return cls(params, PROMPTS, domain.train, domain.verify, endless=False)
        reader, rng = load_reader(params.model), random.Random(0)
        prompts = tuple(text_of(reader, lengths.prompt, rng) for _ in range(params.fast.prompts))
        problems = tuple(Problem(str(i), "bench", text_of(reader, lengths.question, rng), "0") for i in range(count))
        model = params.model.replace(max_new_tokens=lengths.answer)
        return cls(params.replace(model=model.as_dict()), prompts, problems, coin, endless=True)

    def policy(self) -> Policy:
        """The model, loaded anew."""
        torch.set_num_threads(self.params.model.threads)
        policy = load_policy(self.params.model)
        return endless(policy) if self.endless else policy


class Endless(Policy):
    """A policy whose answers run to their longest."""

    end_ids = ()


def endless(policy: Policy) -> Endless:
    """The same policy, but its answers run to their longest."""
    return Endless(**{field.name: getattr(policy, field.name) for field in fields(policy) if field.init})


def text_of(reader: Reader, tokens: int, rng: random.Random) -> str:
    """Words that make about so many tokens."""
    known, words = _WORDS.split(), list[str]()
    while reader.count_tokens(" ".join(words)) < tokens:
        words.append(rng.choice(known))
    return " ".join(words)


def coin(problem: Problem, text: str) -> Score:
    """A reward of 0 or 1 that nobody can know before: nearly every group has both."""
    return Score(float(sum(text.encode()) % 2), "")


@dataclass(frozen=True)
class Figures:
    """Of one step: seconds and most bytes above the loaded model, for the answers and for the training."""

    answers: float
    training: float
    answers_bytes: int
    training_bytes: int

    @property
    def whole(self) -> float:
        """Seconds of the step."""
        return self.answers + self.training

    @classmethod
    def of(cls, meter: Meter) -> Figures:
        return cls(meter.seconds["answers"], meter.seconds["training"], meter.bytes["answers"], meter.bytes["training"])


class _Metered(SlowWeights):
    """Slow weights that say what of a step is spent on answers."""

    meter: Meter

    def sample(self, prompt_ids: Sequence[list[int]]) -> list[Answer]:
        with self.meter.part("answers"):
            return super().sample(prompt_ids)


def our_steps(params: Params, lengths: Lengths | None, steps: int) -> list[Figures]:
    """What each of our steps takes. Of the lab's, which are short, the first warms up and is left out."""
    warm = int(lengths is None)
    work = Work.of(params, lengths, steps + warm)
    params, size = work.params, work.params.slow.problems_per_step
    population = Population(tuple(Prompt(text) for text in work.prompts))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        slow = _Metered(work.policy(), params.slow, params.model, work.verify, Path(folder), seed=0)
        before = memory_in_use()
        for step in range(steps + warm):
            slow.meter = Meter(before)
            with slow.meter.part("training"):
                slow.train_step(population, work.problems[step * size : (step + 1) * size])
            found.append(Figures.of(slow.meter))
    return found[warm:]


def their_steps(params: Params, lengths: Lengths | None, steps: int) -> list[Figures]:
    """The same of GRPOTrainer as it comes, under the first prompt, in micro-batches of as many tokens as our slices."""
    warm = int(lengths is None)
    work = Work.of(params, lengths, steps + warm)
    policy = work.policy()
    asked = [policy.messages(work.prompts[0], problem.question) for problem in work.problems]

    def reward(prompts: object, completions: list[list[dict[str, str]]], place: list[int], **_: object) -> list[float]:
        texts = [said[0]["content"].strip() for said in completions]
        return [work.verify(work.problems[i], text).reward for i, text in zip(place, texts, strict=True)]

    longest = max(map(len, policy.encode(asked))) + policy.max_new_tokens
    before = memory_in_use()
    meters = [Meter(before) for _ in range(steps + warm)]
    plain = PlainTrl(
        rows=[{"prompt": messages, "place": place} for place, messages in enumerate(asked)],
        reward=reward,
        micro_rows=max(1, work.params.slow.micro_tokens // longest),
        shortest=policy.max_new_tokens if work.endless else 0,
    )
    with tempfile.TemporaryDirectory() as folder:
        plain.train(policy, work.params, Path(folder), [meter.part for meter in meters])
    return [Figures.of(meter) for meter in meters[warm:]]


def speed(params: Params, lengths: Lengths | None, steps: int, blocks: int) -> Iterator[str]:
    """Lines: one after each block, and in the end one with the parts of a step and their memory."""
    ours: list[Figures] = []
    theirs: list[Figures] = []
    for block in range(1, blocks + 1):
        ours += _apart(our_steps, params, lengths, steps)
        theirs += _apart(their_steps, params, lengths, steps)
        yield f"block {block} of {blocks}: {_compared(ours, theirs, ('whole', 'training'))}"
    rows = f"{params.slow.problems_per_step} problems x {params.slow.group_size}"
    if lengths:
        rows += f", {params.fast.prompts} prompts of {lengths.prompt} tokens, questions of {lengths.question}"
        rows += f", answers of {lengths.answer}"
    yield f"RL step of {rows}: {_compared(ours, theirs, ('whole', 'answers', 'training'))}"
    mine, plain = (max(figures.training_bytes for figures in side) for side in (ours, theirs))
    yield (
        f"memory above the model in training: ours {mine / GIB:.2f} GiB, plain {plain / GIB:.2f} GiB, "
        f"ratio {mine / max(1, plain):.2f}"
    )


def _apart(
    side: Callable[[Params, Lengths | None, int], list[Figures]], params: Params, lengths: Lengths | None, steps: int
) -> list[Figures]:
    """What a side measures in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(side, params, lengths, steps).result()


def _compared(ours: Sequence[Figures], theirs: Sequence[Figures], parts: Sequence[str]) -> str:
    said = []
    for part in parts:
        mine, plain = (statistics.median(getattr(figures, part) for figures in side) for side in (ours, theirs))
        said.append(f"{part} {mine:.3f} s against {plain:.3f} s, ratio {mine / plain:.2f}")
    return "; ".join(said)
