"""The Pareto frontier over prompts: who is best on which problem, and which K prompts cover it.

Scores are a matrix {prompt: {problem: reward}} under one state of the slow weights. Invariants:
F1 a cover is never empty and never longer than K; F2 its first member has the best mean;
F3 no text is in it twice before padding; F4 greedy: each next member wins the most problems that no
earlier member of its layer is best on, ties by mean, then by order, and a new layer begins when all are covered;
F5 adding a dominated prompt changes nothing on the frontier; F6 behind the first, only members of the frontier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Scores = Mapping[str, Mapping[str, float]]


def mean_score(scores: Mapping[str, float]) -> float:
    """A prompt's mean reward over its problems; 0.0 without any."""
    return sum(scores.values()) / len(scores) if scores else 0.0


def frontier(scores: Scores) -> dict[str, set[str]]:
    """For each problem, the prompts with the best reward on it. Problems nobody gets right are left out:
    a tie at zero says nothing about a prompt."""
    problems = {problem for by_problem in scores.values() for problem in by_problem}
    best = {p: max(s.get(p, 0.0) for s in scores.values()) for p in problems}
    return {
        p: {name for name, s in scores.items() if s.get(p, 0.0) == best[p]} for p in sorted(problems) if best[p] > 0
    }


def greedy_cover(scores: Scores, k: int) -> list[str]:
    """At most K prompts that together are best on as many problems as K prompts chosen greedily can be.

    The best mean comes first; then whoever is best on the most problems not yet covered. Once all are covered the cover
    begins again among the rest of the frontier: prompts that win the same problems still answer the others
    differently, and a group of rollouts learns from what differs in it. `scores` must not be empty.
    """
    if not scores:
        raise ValueError("greedy_cover needs at least one scored prompt")
    order = {name: i for i, name in enumerate(scores)}
    by_mean = sorted(scores, key=lambda name: (-mean_score(scores[name]), order[name]))
    wins = frontier(scores)
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


def deal(members: Sequence[str], k: int) -> list[str]:
    """K members, the best first; where there are fewer, the cover is repeated from its start."""
    return [members[i % len(members)] for i in range(k)]
