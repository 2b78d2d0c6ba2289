"""What a domain deals: problems, and scores with feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One verifiable task. `id` is unique within its domain; `answer` is what the verifier compares with.

    Where each problem names a verifier, `verifier` is its name with its options, as `fst.data.verifiers` takes them;
    `line` is where the problem stands in its file, from 1. Neither makes it another problem.
    """

    id: str
    domain: str
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    verifier: Mapping[str, Any] | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Score:
    """A verdict: `reward` in [0, 1] and feedback a reader can learn from. Feedback of the lab never names
    the rule: it gives the input, the output, the expected output and what differs."""

    reward: float
    feedback: str


Verifier = Callable[[Problem, str], Score]


@dataclass(frozen=True)
class SplitSizes:
    """Problems a split. Made families stop where they cannot make as many; files and hub datasets take what there
    is, with a warning, and stop where a split would be empty."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Domain:
    """A task domain: disjoint, seeded splits and the verifier that scores answers to them."""

    spec: str
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    verify: Verifier
