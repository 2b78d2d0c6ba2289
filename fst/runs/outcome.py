"""What keeps a run from learning, found while it goes; and whether it learned anything, read from its record.

Each finding is a `Trouble`: it is said when it is found, stands in events.jsonl, and is said again at the end.
Invariants, each with a test: O1 a verifier that raises and answers that are cut off are found after `ENOUGH` answers of
a round, all else when the round is complete; O2 a kind of trouble is found once a round; O3 what is found in an
evaluation is said, and not held against the run; O4 a run that began perfect is no failure, nor one that learned in
spite of its troubles, nor one without any that found nothing better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fst.data.scoring import RAISED, one_line, parse_feedback, remark
from fst.types import Rollout

Kind = Literal["verifier", "cut off", "zero", "equal", "signal", "refused"]
Event = Mapping[str, Any]

ENOUGH = 64  # answers of a round that are judged before it is complete
GROUPS = 16  # of a slow round without signal, fewer of which may be chance
SHOWN = 3  # samples of what was asked, answered and scored
_LONGEST = 200  # characters of a question or an answer in a sample

REASONS = {
    "empty": "without a text",
    "known": "known already",
    "too_long": "too long",
}
_REMEDIES = {
    "too_long": "raise fast.max_prompt_tokens, or ask the reflector for shorter prompts",
    "known": "raise reflector.temperature, or take another reflector",
    "empty": "see what the reflector replies: reflector.* in params.yaml",
}


@dataclass(frozen=True)
class Trouble:
    """Something that keeps a run from learning: its kind, a sentence that says what to do, and samples of it."""

    kind: Kind
    says: str
    samples: tuple[str, ...] = ()

    def text(self) -> str:
        """The sentence and its samples, a line each."""
        return "\n".join((self.says, *self.samples))


def sample(rollout: Rollout) -> str:
    """What was asked, expected, answered, read of the answer where that is less than all of it, and scored, in lines;
    of a long question the beginning, of a long answer the end."""
    asked, expected = parse_feedback(rollout.feedback) or (f"problem {rollout.problem_id}", "")
    said = remark(rollout.feedback).strip()
    read = one_line(rollout.read or "")
    lines = [
        ("asked", one_line(asked)[:_LONGEST]),
        ("expected", one_line(expected)[:_LONGEST]),
        ("answered", (one_line(rollout.text)[-_LONGEST:] or "nothing") + (" (cut off)" if rollout.cut else "")),
        ("read as", read[:_LONGEST] if read != one_line(rollout.text) else ""),
        ("scored", f"{rollout.reward:g}" + (f": {one_line(said)[:_LONGEST]}" if said else "")),
    ]
    return "\n".join(f"    {name:9} {text}" for name, text in lines if text) + "\n"


@dataclass
class Tally:
    """Answers as they come in: how many there are, how many were cut off, on how many the verifier raised, their
    rewards, and samples of different problems. `told` are the kinds of trouble that were found in them."""

    answers: int = 0
    cut: int = 0
    raised: int = 0
    total: float = 0.0
    lowest: float = 1.0
    highest: float = 0.0
    longest: int = 0
    last_error: str = ""
    samples: dict[str, str] = field(default_factory=dict)
    told: set[Kind] = field(default_factory=set)

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Count answers."""
        for rollout in rollouts:
            said = remark(rollout.feedback)
            self.answers += 1
            self.total += rollout.reward
            self.lowest, self.highest = min(self.lowest, rollout.reward), max(self.highest, rollout.reward)
            self.longest = max(self.longest, len(rollout.tokens))
            self.cut += rollout.cut
            if said.startswith(RAISED):
                self.raised, self.last_error = self.raised + 1, said.removeprefix(RAISED)
            if len(self.samples) < SHOWN and rollout.problem_id not in self.samples:
                self.samples[rollout.problem_id] = sample(rollout)

    def trouble(self, whole: bool = True) -> Trouble | None:
        """What is wrong with the answers, the cause before what follows from it. `whole`: all answers are in."""
        if not self.answers or (not whole and self.answers < ENOUGH):
            return None
        n, shown = self.answers, tuple(self.samples.values())
        if 2 * self.raised > n:
            says = (
                f"the verifier raised on {self.raised:,} of {n:,} answers, the last time {self.last_error}: "
                "each of them scores 0 until it is corrected"
            )
            return Trouble("verifier", says, shown)
        if 2 * self.cut > n:
            says = (
                f"{self.cut:,} of {n:,} answers were cut off at {self.longest:,} tokens: "
                "raise model.max_new_tokens, or ask for shorter answers in loop.seed_prompt"
            )
            return Trouble("cut off", says, shown)
        if whole and self.highest == 0:
            says = (
                f"none of {n:,} answers earned a reward: see below whether the verifier reads what the model writes, "
                "say in loop.seed_prompt how to answer, or begin with easier problems"
            )
            return Trouble("zero", says, shown)
        if whole and self.lowest == self.highest < 1:
            says = (
                f"all {n:,} answers earned the same reward, {self.highest:g}, so that none is better than another: "
                "see below whether the verifier reads what the model writes"
            )
            return Trouble("equal", says, shown)
        return None


def no_signal(groups: int, kept: int, reward: float) -> Trouble | None:
    """A slow round whose groups had nothing to compare; `reward` is its mean. One in which all was right had nothing to
    learn, and one of few groups may have been unlucky."""
    return None if kept or groups < GROUPS or reward >= 1 else _alike(groups)


def _alike(groups: int) -> Trouble:
    says = (
        f"in none of {groups:,} groups did the rewards differ, so the weights did not move: raise slow.group_size, or "
        "take problems that the model solves now and then"
    )
    return Trouble("signal", says)


def no_proposal(screening: Event, found: int, evolved: bool) -> Trouble | None:
    """A fast round without a new prompt though the reflector was asked. `screening` is the round's account of it,
    `found` the number of new prompts, `evolved` whether an earlier round found any: having nothing new to say is no
    trouble then."""
    refused = {reason: n for reason, n in screening.get("refused", {}).items() if n}
    errors = screening.get("errors", 0)
    if found or not refused or (evolved and "too_long" not in refused):
        return None
    total, most = sum(refused.values()), max(refused, key=refused.__getitem__)
    counts = ", ".join(f"{n} {REASONS.get(reason, reason)}" for reason, n in refused.items())
    says = f"all {total} proposals were refused ({counts})" + (f", {errors} calls failed" if errors else "")
    return Trouble("refused", f"{says}: {_REMEDIES.get(most, _REMEDIES['empty'])}", tuple(screening.get("samples", ())))


@dataclass(frozen=True)
class Outcome:
    """Whether a run learned anything, and the first trouble of each kind with the number of rounds that had it."""

    learned: bool
    troubles: tuple[tuple[Trouble, int], ...]

    @property
    def failed(self) -> bool:
        """Nothing was learned, and something was wrong."""
        return not self.learned and bool(self.troubles)

    def sentences(self) -> list[str]:
        """A sentence for each kind of trouble."""
        return [f"{trouble.says} ({n} round{'s' if n > 1 else ''})" for trouble, n in self.troubles]


def outcome_of(events: Sequence[Event]) -> Outcome:
    """The outcome of a run's events in force."""
    found: dict[Kind, tuple[Trouble, int]] = {}
    for event in events:
        if event["kind"] == "trouble":
            kind = event["trouble"]
            first, n = found.get(kind, (Trouble(kind, event["says"], tuple(event["samples"])), 0))
            found[kind] = first, n + 1
    learned = _moved(events) or _evolved(events) or _perfect(events)
    steps = [event for event in events if event["kind"] == "step"]
    if steps and not (learned or found):  # of too few groups for a round to say so
        alike = _alike(sum(event.get("groups", 1) for event in steps))
        found[alike.kind] = alike, len({event["round"] for event in steps})
    return Outcome(learned, tuple(found.values()))


def _moved(events: Sequence[Event]) -> bool:
    """Whether any step of RL had rewards to compare."""
    return any(event.get("kept_groups", 1) for event in events if event["kind"] == "step")


def _evolved(events: Sequence[Event]) -> bool:
    """Whether a prompt beat all that its round began with, on the same problems and under the same weights."""
    rounds: dict[int, tuple[list[float], list[float]]] = {}
    for event in events:
        if event["kind"] == "prompt" and event.get("score") is not None:
            begun, born = rounds.setdefault(event["round"], ([], []))
            (born if event.get("reflection") else begun).append(event["score"])
    return any(begun and born and max(born) > max(begun) for begun, born in rounds.values())


def _perfect(events: Sequence[Event]) -> bool:
    """Whether there was nothing to learn: every answer was right from the start, or in every round."""
    rounds = [event["reward"] for event in events if event["kind"] == "round"]
    first = next((event["accuracy"] for event in events if event["kind"] == "evaluation"), 0.0)
    return first >= 1 or (bool(rounds) and min(rounds) >= 1)
