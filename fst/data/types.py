"""Problems, domains, and scores with feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fst.config import Params

SPLITS = ("train", "validation", "test")
TENANTS = "tenants"  # the key in a problem's meta for the tenants whose feedback it comes from
EXACT: Mapping[str, Any] = {"name": "exact"}  # the verifier of problems that name none


@dataclass(frozen=True)
class Problem:
    """One verifiable task. `id` is unique within its domain; `answer` is what the verifier compares with.

    `verifier` is the name of the problem's own verifier with its options (see fst/data/verifiers.py), if it names one;
    `line` is its line in its file, from 1. Both are ignored in comparisons. `feedback` is a hint for wrong answers,
    which reflection reads along with the verifier's feedback.
    """

    id: str
    domain: str
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    verifier: Mapping[str, Any] | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)
    feedback: str = ""


@dataclass(frozen=True)
class Score:
    """A verdict: `reward` in [0, 1] and feedback to learn from. The lab's feedback never names the rule; it gives the
    input, the output, the expected output and what differs. `read` is the answer that was found in the response, None
    if there was none."""

    reward: float
    feedback: str
    read: str | None = None


Verifier = Callable[[Problem, str], Score]


@dataclass(frozen=True)
class SplitSizes:
    """Number of problems in each split. A family that generates problems raises an error if it cannot make as many;
    files and hub datasets give what they have, with a warning, and raise an error only if a split would be empty."""

    train: int
    validation: int
    test: int

    @classmethod
    def of(cls, params: Params) -> SplitSizes:
        """The sizes that the section `prepare` asks for."""
        return cls(params.prepare.train, params.prepare.validation, params.prepare.test)


Splits = dict[str, tuple[Problem, ...]]  # by their names, in the order of SPLITS


@dataclass(frozen=True)
class Domain:
    """A task domain: disjoint splits, in a fixed order, and the verifier that scores answers to them; `named` is the
    verifier's name and options, if they are more than the spec says (see fst/data/verifiers.py)."""

    spec: str
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    verify: Verifier
    named: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of all splits: train, validation, test."""
        return (*self.train, *self.validation, *self.test)
