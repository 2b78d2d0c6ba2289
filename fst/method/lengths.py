"""Selects the problems that a run can ask: those whose questions leave room for the longest prompt and answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fst.config import Params
from fst.data.types import SPLITS, Domain, Problem
from fst.errors import DataError
from fst.models.policy import Policy

log = logging.getLogger("fst")


@dataclass(frozen=True)
class LeftOut:
    """The problems that a run leaves out: their number in each split, and the tokens of the longest question and of the
    longest that fits (`room`), chat template included."""

    splits: dict[str, int]
    longest: int
    room: int


def fitting(policy: Policy, domain: Domain, params: Params) -> tuple[Domain, LeftOut | None]:
    """Remove the problems whose questions are too long. Returns the remaining domain and what was left out, or None if
    nothing was; a warning says how many. Raises DataError if a split would become empty."""
    kept = {name: readable(policy, getattr(domain, name), params) for name in SPLITS}
    missing = {name: len(getattr(domain, name)) - len(kept[name]) for name in SPLITS}
    room = policy.room(params, policy.engine.context)
    if room is None or not any(missing.values()):
        return domain, None
    left = LeftOut(missing, max(_lengths(policy, domain.problems)), room)
    log.warning(
        "%s: %s are left out: questions have up to %d tokens, and %d fit beside fast.max_prompt_tokens and "
        "model.max_new_tokens",
        domain.spec,
        ", ".join(f"{count} {name} problems" for name, count in missing.items() if count),
        left.longest,
        room,
    )
    splits = (kept["train"], kept["validation"], kept["test"])
    return Domain(domain.spec, *splits, domain.verify, domain.named), left


def readable(policy: Policy, problems: Sequence[Problem], params: Params) -> tuple[Problem, ...]:
    """Return the problems whose questions fit. Raises DataError if none does."""
    room = policy.room(params, policy.engine.context)
    if room is None:
        return tuple(problems)
    lengths = _lengths(policy, problems)
    kept = tuple(problem for problem, length in zip(problems, lengths, strict=True) if length <= room)
    if problems and not kept:
        raise DataError(
            f"no problem of a split fits: the shortest question has {min(lengths)} tokens, and {room} of the "
            f"{_context(policy)} that are read at once are left after fast.max_prompt_tokens and "
            "model.max_new_tokens. Lower those, shorten the questions, or pick a model (with vLLM: a server) with a "
            "longer context"
        )
    return kept


def _context(policy: Policy) -> int | None:
    """The engine's context limit in tokens, or the model's if the engine states none."""
    return policy.context if policy.engine.context is None else policy.engine.context


def _lengths(policy: Policy, problems: Sequence[Problem]) -> list[int]:
    return [len(ids) for ids in policy.encode([policy.messages("", problem.question) for problem in problems])]
