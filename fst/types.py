"""The vocabulary of Fast-Slow Training (arXiv 2605.12484), shared by all rooms."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import quote

Arm = Literal["fst", "rl", "gepa", "rl_gepa", "gepa_rl", "distill"]
ARMS: tuple[Arm, ...] = get_args(Arm)
SEQUENTIAL: tuple[Arm, ...] = ("rl_gepa", "gepa_rl")  # one kind of round after the other
COMPARED: tuple[Arm, ...] = ARMS[:3]  # what `fst run` trains unless told otherwise
Purpose = Literal["train", "fast", "eval"]
Origin = Literal["seed", "reflection", "demonstration"]
AnswerMode = Literal["whole", "last_line", "tag", "boxed", "marker", "auto"]  # see fst/data/answers.py
AnswerSetting = Literal[AnswerMode, ""]  # empty: as the domain's family does
ANSWER_MODES: tuple[AnswerMode, ...] = get_args(AnswerMode)

_MODE_OF_SPEC = re.compile(r"#([A-Za-z_]+)$")


def with_answer(spec: str, mode: str) -> str:
    """A domain's spec that says how answers are found: SPEC#MODE, in place of a mode that it has. An empty mode leaves
    it as it is."""
    return f"{plain_spec(spec)}#{mode}" if mode else spec


def plain_spec(spec: str) -> str:
    """A domain's spec without its `#MODE`."""
    return _MODE_OF_SPEC.sub("", spec)


def mode_of_spec(spec: str) -> str:
    """The mode that a domain's spec ends with, empty where it has none."""
    found = _MODE_OF_SPEC.search(spec)
    return found[1] if found else ""


def prompt_id(text: str) -> str:
    """Content hash of a prompt, 12 hex digits: equal texts are one prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def scored_with(spec: str, verifier: str) -> str:
    """The spec of the same problems, with the verifier of those that name none: its name, or a JSON object of name and
    options. A spec that names one already stays as it is, and so it does for no verifier."""
    if not verifier or "?verifier=" in spec or "&verifier=" in spec:
        return spec
    return f"{spec}{'&' if '?' in spec else '?'}verifier={quote(verifier, safe='/:')}"


@dataclass(frozen=True)
class Prompt:
    """A member of the fast weights: a system prompt with its ancestry. `parents` are prompt ids, `born` is the round
    that proposed it: by reflection, or by demonstration, which changes the worked examples in it."""

    text: str
    parents: tuple[str, ...] = ()
    origin: Origin = "seed"
    born: int = 0

    @property
    def id(self) -> str:
        return prompt_id(self.text)

    def as_dict(self) -> dict[str, Any]:
        values = {"text": self.text, "parents": list(self.parents), "origin": self.origin, "born": self.born}
        return {"id": self.id, **values}


def prompt_from_dict(values: Mapping[str, Any]) -> Prompt:
    """The prompt that `Prompt.as_dict` wrote."""
    return Prompt(values["text"], tuple(values["parents"]), values["origin"], values["born"])


@dataclass(frozen=True)
class Rollout:
    """One answer of the policy to one problem under one prompt, and its score.

    `tokens` are the answer's token ids (end token included), `logprobs` their log-probabilities under the behaviour
    policy at T=1, in nats. `weights` is the number of RL steps that the answering weights had taken. `purpose` is what
    the rollout was sampled for; records on disk have it under the key "channel". `cut`: the answer ran into the limit
    of its length, and did not end by itself. `read` is the answer that the verifier found in it, None where it
    found none or does not say; records on disk leave it out.
    """

    purpose: Purpose
    problem_id: str
    prompt_id: str
    weights: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    feedback: str
    cut: bool = False
    read: str | None = None


@dataclass
class Budget:
    """Rollouts spent, by purpose. Every rollout of a run counts exactly once."""

    train: int = 0
    fast: int = 0
    eval: int = 0

    @property
    def learning(self) -> int:
        """Rollouts spent on learning: RL steps and fast rounds, not evaluation."""
        return self.train + self.fast

    def add(self, purpose: Purpose, count: int) -> None:
        setattr(self, purpose, getattr(self, purpose) + count)

    def as_dict(self) -> dict[str, int]:
        return {"train": self.train, "fast": self.fast, "eval": self.eval}


@dataclass(frozen=True)
class Population:
    """The fast weights: K prompts, best first, never none; a text is repeated only as padding. `scores` is the mean
    reward of each on the round's anchor problems, by prompt id, under the slow weights after `weights` RL steps."""

    prompts: tuple[Prompt, ...]
    scores: dict[str, float] = field(default_factory=dict)
    weights: int = 0

    @property
    def best(self) -> Prompt:
        return self.prompts[0]
