"""Decides what kind of round comes next and when a run looks for signal. Pure functions of the completed rounds.

The paper alternates: a fast round, T RL steps, and so on. With `loop.balance: auto` a fast round is skipped while it
gains no more reward per rollout than the slow rounds do. It is held again once it has been skipped `REST` times in a
row, and whenever a run *stands still*: nearly all groups of a slow round had equal rewards although problems remain
unsolved. In that case, with either balance, the run looks for signal by the means listed in `loop.signal`.

Invariants, each with a test: A1 with `fixed` the channels take turns, whatever was seen; A2 the first round is the
arm's first, and an arm of one channel has nothing to decide; A3 two fast rounds never follow each other, and at most
`REST + 1` slow ones do; A4 a fast round that is held would also be held if the last ones had gained more; A5 doubling
the rollouts of every round leaves the decision the same; A6 signal is looked for if and only if few groups of the last
slow round carried signal and its mean reward leaves problems to solve; A7 every decision gives its reason, with the
figures behind it; A8 a gain within one standard error counts as none, and no gain is negative; A9 a batch keeps its
length and the first half of its problems, and no problem is repeated that was not repeated before; A10 a problem that
enters a batch had mixed rewards when last met, and those whose rewards differed most come first; A11 a problem that
enters the anchors had equal rewards, below `SOLVED`, when last met, and over the rounds all such problems get a turn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, pstdev, pvariance

from fst.config import Balance
from fst.data.types import Problem
from fst.types import Purpose

RECENT = 2  # rounds of a channel that its gain per rollout is taken from
REST = 3  # the most fast rounds that are skipped in a row
QUIET = 0.4  # share of groups with signal below which a run stands still
SOLVED = 0.95  # mean reward from which groups of equal rewards are expected


@dataclass(frozen=True)
class Seen:
    """A completed round: the rollouts it spent, its mean reward (for a fast round, that of its best prompt), the reward
    it gained, and for a slow round the number of its groups and of those that carried signal (`kept`)."""

    purpose: Purpose
    spent: int
    reward: float
    gained: float
    groups: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Met:
    """How the answers to a problem were rewarded when it was last met: mean and standard deviation."""

    mean: float
    spread: float

    @property
    def mixed(self) -> bool:
        """Whether a group of its answers carries signal."""
        return self.spread > 0

    @property
    def failed(self) -> bool:
        """Whether all answers were equally bad, so that weights have nothing to learn from them."""
        return not self.mixed and self.mean < SOLVED


@dataclass(frozen=True)
class Decision:
    """The next round, whether it looks for signal, and why."""

    purpose: Purpose = "fast"
    search: bool = False
    why: str = ""


def decide(mode: Balance, order: Sequence[Purpose], seen: Sequence[Seen]) -> Decision:
    """Decide the round that follows those `seen`, oldest first; `order` is the order of rounds in the arm's cycle."""
    slow = next((one for one in reversed(seen) if one.purpose == "train"), None)
    search = slow is not None and stands_still(slow)
    signal = f"; {slow.kept} of {slow.groups} groups carried signal at a reward of {slow.reward:.2f}" if slow else ""
    if mode == "fixed" or len(order) == 1 or not seen:
        return Decision(order[len(seen) % len(order)], search, f"turn {len(seen)} of the arm{signal}")
    if seen[-1].purpose == "fast":
        return Decision("train", search, f"the weights learn under the prompts just found{signal}")
    rested = next((n for n, one in enumerate(reversed(seen)) if one.purpose == "fast"), len(seen))
    fast, train = (1000 * rate(seen, purpose) for purpose in ("fast", "train"))
    held = search or fast > train or rested > REST
    return Decision(
        "fast" if held else "train",
        search,
        f"reward gained per 1,000 rollouts: {fast:.3f} by prompts, {train:.3f} by weights; "
        f"slow rounds since the last fast one: {rested}{signal}",
    )


def stands_still(slow: Seen) -> bool:
    """Whether a slow round had few groups with signal, and problems left to solve."""
    return slow.kept < QUIET * slow.groups and slow.reward < SOLVED


def rate(seen: Sequence[Seen], purpose: Purpose) -> float:
    """Reward gained per rollout in the last `RECENT` rounds of a channel; 0 before its first."""
    last = [one for one in seen if one.purpose == purpose][-RECENT:]
    return sum(one.gained for one in last) / max(1, sum(one.spent for one in last))


def gained_by_steps(rewards: Sequence[float]) -> float:
    """Return by how much the mean reward of the later half of a slow round's steps exceeds that of the first half, less
    one standard error; at least 0. `rewards` has the mean reward of each step."""
    half = len(rewards) // 2
    if not half:
        return 0.0
    first, later = rewards[:half], rewards[-half:]
    error = sqrt((pvariance(first) + pvariance(later)) / max(1, half - 1))
    return max(0.0, fmean(later) - fmean(first) - error)


def gained_by_prompts(scores: Mapping[str, Mapping[str, float]], born: Collection[str]) -> float:
    """Return by how much the best new prompt of a fast round beats the best one it began with, in mean reward, less one
    standard error of their difference; at least 0. Both were scored on the same problems; `born` has the new ids."""
    new = max((row for name, row in scores.items() if name in born), key=_mean, default={})
    old = max((row for name, row in scores.items() if name not in born), key=_mean, default={})
    differences = [new[problem] - old[problem] for problem in new.keys() & old.keys()]
    if not differences:
        return 0.0
    return max(0.0, fmean(differences) - sqrt(sum(d * d for d in differences)) / len(differences))


def _mean(row: Mapping[str, float]) -> float:
    return fmean(row.values()) if row else 0.0


def met(rewards: Iterable[tuple[str, float]]) -> dict[str, Met]:
    """Summarise (problem id, reward) pairs per problem id."""
    rows: dict[str, list[float]] = {}
    for problem, reward in rewards:
        rows.setdefault(problem, []).append(reward)
    return {problem: Met(fmean(row), pstdev(row)) for problem, row in rows.items()}


def with_mixed(batch: Sequence[Problem], problems: Sequence[Problem], seen: Mapping[str, Met]) -> list[Problem]:
    """Replace the second half of the batch by problems with mixed rewards, as far as there are any. `seen` is keyed by
    problem id (see `met`)."""
    mixed = [problem for problem in problems if problem.id in seen and seen[problem.id].mixed]
    return _with(batch, sorted(mixed, key=lambda problem: -seen[problem.id].spread))


def with_failed(
    anchors: Sequence[Problem], problems: Sequence[Problem], seen: Mapping[str, Met], turn: int
) -> list[Problem]:
    """Replace the second half of the anchors by problems that failed, as far as there are any. Such a problem gives the
    weights no gradient, but its feedback can still improve a prompt. `turn` counts the fast rounds: each continues in
    the list of failed problems where the previous one stopped."""
    failed = [problem for problem in problems if problem.id in seen and seen[problem.id].failed]
    first = turn * (len(anchors) // 2) % max(1, len(failed))
    return _with(anchors, [*failed[first:], *failed[:first]])


def _with(batch: Sequence[Problem], others: Sequence[Problem]) -> list[Problem]:
    """Fill the second half of the batch with as many of the others as fit, none twice."""
    half, there = (len(batch) + 1) // 2, {problem.id for problem in batch}
    new = [problem for problem in others if problem.id not in there]
    return [*batch[:half], *new[: len(batch) - half], *batch[half:]][: len(batch)]
