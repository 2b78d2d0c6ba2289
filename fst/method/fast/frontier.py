"""The Pareto frontier over prompts: which prompts are best on which problem, and which K of them cover all problems.

Scores are a matrix {prompt: {problem: reward}} under one state of the slow weights. A reward is one noisy sample, so
those on a problem that tie (fst/method/fast/trial.py) are equally good; rewards of 0 and 1 never tie. Invariants:
F1 a cover is never empty and never longer than K; F2 its first member has the best mean;
F3 no text is in it twice before padding; F4 greedy: each next member wins the most problems that no
earlier member of its layer is best on, ties by mean, then by order, and a new layer begins when all are covered;
F5 adding a dominated prompt changes nothing on the frontier; F6 all members but the first are on the frontier;
F7 a larger tie only adds winners, and a tie of 0 is equality.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from fst.method.fast.trial import tied

Scores = Mapping[str, Mapping[str, float]]
Name = TypeVar("Name", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)


def mean_score(scores: Mapping[str, float]) -> float:
    """A prompt's mean reward over its problems; 0.0 without any."""
    return sum(scores.values()) / len(scores) if scores else 0.0


def winners(scores: Mapping[Name, Mapping[Key, float]], tie: float = 0.0) -> dict[Key, set[Name]]:
    """For each problem, the prompts whose reward on it is the best one or ties with it."""
    problems = dict.fromkeys(p for row in scores.values() for p in row)
    best = {p: max(row.get(p, 0.0) for row in scores.values()) for p in problems}
    return {p: {name for name, row in scores.items() if tied(row.get(p, 0.0), best[p], tie)} for p in best}


def frontier(scores: Scores, tie: float = 0.0) -> dict[str, set[str]]:
    """The winners of each problem. Problems that no prompt solves are left out: a tie at zero says nothing about a
    prompt."""
    solved = {p for row in scores.values() for p, reward in row.items() if reward > 0}
    return {p: names for p, names in winners(scores, tie).items() if p in solved}


def greedy_cover(scores: Scores, k: int, tie: float = 0.0) -> list[str]:
    """Choose at most K prompts that together are best on as many problems as a greedy choice can reach.

    The prompt with the best mean comes first, then repeatedly the one that is best on the most problems not yet
    covered. Once all are covered, the cover begins again among the rest of the frontier: prompts that win the same
    problems still answer others differently, and a group of rollouts learns from such differences. Raises ValueError
    if `scores` is empty.
    """
    if not scores:
        raise ValueError("greedy_cover needs at least one scored prompt")
    order = {name: i for i, name in enumerate(scores)}
    by_mean = sorted(scores, key=lambda name: (-mean_score(scores[name]), order[name]))
    wins = frontier(scores, tie)
    chosen = [by_mean[0]]
    uncovered = {p for p, winners in wins.items() if chosen[0] not in winners}
    while len(chosen) < k:
        rest = [name for name in by_mean if name not in chosen]
        still = [name for name in rest if any(name in wins[p] for p in uncovered)]
        if not still:
            uncovered = set(wins)
            still = [name for name in rest if any(name in wins[p] for p in uncovered)]
        if not still:
            break
        name = max(still, key=lambda n: sum(n in wins[p] for p in uncovered))
        chosen.append(name)
        uncovered = {p for p in uncovered if name not in wins[p]}
    return chosen


def deal(members: Sequence[Name], k: int) -> list[Name]:
    """Repeat the members from the start, if there are fewer than K, to make K of them, the best first."""
    return [members[i % len(members)] for i in range(k)]
