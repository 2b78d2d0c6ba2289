"""Deals problems into disjoint splits: problems drawn from a source that generates them, or the problems of a file."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from fst.data.types import SPLITS, Problem, Splits, SplitSizes
from fst.errors import DataError

Draws = Callable[[str], Iterator[tuple[str, str, dict[str, Any]]]]  # seed text -> (question, answer, meta), without end

_log = logging.getLogger(__name__)
_SHARES = ("test", "validation", "train", "train")
# Draws per problem wanted before a source counts as exhausted; four fill the smallest share on average.
_PATIENCE, _PATIENCE_FLOOR = 20, 400


def deal(spec: str, draws: Draws, sizes: SplitSizes, seed: int, source: str = "") -> Splits:
    """Draw splits of distinct questions. `source` is the source's name, which must be the same for equivalent specs
    (default: the spec).

    A question's split is decided by a hash of its text: a quarter of all questions is test, a quarter validation, half
    train. So the splits are disjoint whatever their sizes and seeds, and a question held out in one domain of a family
    is held out in all. Held-out splits depend only on the source, the train split on `seed` as well. Raises DataError
    if the source has too few questions.
    """
    seeds = {"train": f"seed {seed}", "validation": "held out", "test": "held out"}

    def split(name: str) -> tuple[Problem, ...]:
        size = getattr(sizes, name)
        problems: dict[str, Problem] = {}
        for text, answer, meta in islice(draws(f"{source or spec}|{name}|{seeds[name]}"), _most_draws(size)):
            if _share(text) == name and text not in problems:
                problem_id = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
                problems[text] = Problem(problem_id, spec, text, answer, meta)
            if len(problems) == size:
                break
        if len(problems) < size:
            raise DataError(
                f"{spec} holds too few distinct questions: {len(problems)} found for the {name} split, {size} asked; "
                f"ask for at most {len(problems)}"
            )
        return tuple(problems.values())

    return {name: split(name) for name in SPLITS}


def _most_draws(size: int) -> int:
    return _PATIENCE_FLOOR + _PATIENCE * size if size > 0 else 0


def _share(text: str) -> str:
    return _SHARES[hashlib.sha256(text.encode()).digest()[0] % len(_SHARES)]


def take(spec: str, problems: Sequence[Problem], named: Sequence[str | None], sizes: SplitSizes, seed: int) -> Splits:
    """Deal given problems into the splits that `named` assigns to them, or, if it assigns none, by a hash of their ids.

    Among hashed splits, test and validation are filled first and train gets the rest, but at least a third of the
    problems, or the size asked for if that is less. The splits and the held-out problems taken do not depend on `seed`;
    the train problems taken and their order do. Each split takes at most as many problems as asked for; if one has
    fewer, a warning says how many each has. Raises DataError for a split that would be empty.
    """
    ranked = sorted(zip(problems, named, strict=True), key=lambda pair: hashlib.sha256(pair[0].id.encode()).digest())
    asked = {name: getattr(sizes, name) for name in SPLITS}
    if any(named):
        pools = {name: [p for p, split in ranked if split == name] for name in SPLITS}
    else:
        pools = _held_out_first([p for p, _ in ranked], asked)
    random.Random(f"train order {seed}").shuffle(pools["train"])
    for name in SPLITS:
        have = len(pools[name])
        if have == 0 and asked[name] > 0:
            raise DataError(
                f"{spec}: no problem for the {name} split ({len(problems)} in all); add problems"
                + (f' with "split": "{name}"' if any(named) else "")
            )
    short = [name for name in SPLITS if len(pools[name]) < asked[name]]
    if short:
        held = ", ".join(f"{min(len(pools[name]), asked[name])} {name} ({asked[name]} asked)" for name in SPLITS)
        more = "" if short == ["train"] else "; accuracy is known less well on fewer, so add problems if you can"
        _log.warning("%s: %d problems are dealt as %s%s", spec, len(problems), held, more)
    return {name: tuple(pools[name][: asked[name]]) for name in SPLITS}


def _held_out_first(ranked: list[Problem], asked: dict[str, int]) -> dict[str, list[Problem]]:
    """Split ranked problems: test and validation get the sizes asked for, or as many as leave train its third."""
    kept = min(asked["train"], -(-len(ranked) // 3))
    share = min(1.0, (len(ranked) - kept) / max(1, asked["test"] + asked["validation"]))
    test, held_out = (max(1, int(asked[name] * share)) if asked[name] else 0 for name in ("test", "validation"))
    return {
        "train": ranked[test + held_out :],
        "validation": ranked[test : test + held_out],
        "test": ranked[:test],
    }
