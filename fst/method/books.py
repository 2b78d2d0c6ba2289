"""The books of a run: what it has spent, what is on its record, what its progress shows.

Whatever a run counts or writes down passes here; record lines are those that fst/runs/view.py reads back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fst.method.evaluation import Evaluation
from fst.method.fast import FastRound
from fst.method.frontier import mean_score
from fst.method.slow import StepResult
from fst.models.memory import peak_bytes
from fst.runs.progress import Progress
from fst.runs.records import RunFolder, events_back, events_of
from fst.types import Budget, Population, Prompt, Purpose, Rollout


@dataclass
class Books:
    """`limit` is the most rollouts that the run may spend on learning, `seconds` the time it has spent on it so far;
    evaluation is in neither."""

    folder: RunFolder
    progress: Progress
    limit: int
    budget: Budget = field(default_factory=Budget)
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """Learning rollouts that may still be spent; negative where the last round ended above the limit."""
        return self.limit - self.budget.learning

    def note(self, kind: str, **values: Any) -> None:
        """Put an event on the record."""
        self.folder.event(kind, **values)

    def events(self) -> list[dict[str, Any]]:
        """The events in force so far."""
        return events_of(self.folder.path)

    def last(self, kind: str) -> dict[str, Any]:
        """The last event in force of a kind. Raises StopIteration where there is none."""
        return next(event for event in events_back(self.folder.path) if event["kind"] == kind)

    def count(self, purpose: Purpose, rollouts: Sequence[Rollout], round_number: int) -> None:
        """Add rollouts to the budget and to the record, under a round's number. No rollout enters either elsewhere."""
        self.budget.add(purpose, len(rollouts))
        self.folder.rollouts(round_number, rollouts)

    def open_round(self, purpose: Purpose, number: int, cycle: int) -> RoundAccount:
        """Begin a round; its time runs from here."""
        account = RoundAccount(self, "fast" if purpose == "fast" else "slow", number, cycle)
        self.progress.round_started(account.kind, cycle)
        return account

    def close_round(self, account: RoundAccount, step: int, population: Population) -> None:
        """Write down a round that is complete, with the optimizer step and the population that it ended with."""
        seconds = time.monotonic() - account.started
        self.seconds += seconds
        self.note(
            "round",
            round=account.number,
            channel=account.kind,
            cycle=account.cycle,
            step=step,
            seconds=round(seconds, 3),
            reward=account.reward,
            population=[p.id for p in population.prompts],
            scores=population.scores,
            rollouts=self.budget.as_dict(),
            **account.reflection,
        )

    def step(self, round_number: int, step: int, result: StepResult, rollouts: Sequence[Rollout]) -> None:
        """Count and write down optimizer step `step`, counted from 1 over the run."""
        self.count("train", rollouts, round_number)
        self.note(
            "step",
            round=round_number,
            step=step,
            reward=result.reward,
            groups=result.groups,
            kept_groups=result.kept_groups,
            loss=result.loss,
            grad_norm=result.grad_norm,
            seconds=round(result.seconds, 3),
        )
        tokens = sum(len(rollout.tokens) for rollout in rollouts)
        spent = f"{result.seconds:.1f} s for {tokens:,} new tokens, at most {peak_bytes() / 2**30:.1f} GiB so far"
        self.progress.step(step, result.reward, spent)

    def prompts(self, round_number: int, found: FastRound) -> None:
        """Write down every prompt that a fast round met; its rollouts were counted as they were made."""
        for name, prompt in found.prompts.items():
            scores = found.scores.get(name, {})
            self.note(
                "prompt",
                round=round_number,
                id=name,
                text=prompt.text,
                parents=list(prompt.parents),
                origin=prompt.origin,
                score=mean_score(scores) if scores else None,
                reflection=found.reflections.get(name),
            )

    def proposed(self, spent: int, budget: int, best: float) -> None:
        """Show how far the fast round under way is."""
        self.progress.fast(spent, budget, best)

    def evaluation(self, round_number: int, step: int, prompt: Prompt, found: Evaluation) -> None:
        """Write down what the validation after a round found for the best prompt."""
        self.note(
            "evaluation",
            round=round_number,
            step=step,
            split="validation",
            accuracy=found.accuracy,
            stderr=found.stderr,
            kl=found.kl,
            kl_seed_prompt=found.kl_seed_prompt,
            prompt=prompt.id,
            rollouts=self.budget.as_dict(),
            seconds=round(self.seconds, 3),
        )
        self.progress.evaluated(step, found.accuracy, found.kl, prompt.text)

    def end(self, round_number: int, step: int, found: Evaluation, adapter: str, population: Population) -> None:
        """Write down the final figures and the adapter's hash, and bring the record to the disk."""
        self.note(
            "end",
            round=round_number,
            accuracy=found.accuracy,
            stderr=found.stderr,
            kl=found.kl,
            kl_seed_prompt=found.kl_seed_prompt,
            rollouts=self.budget.as_dict(),
            seconds=round(self.seconds, 3),
            adapter_sha256=adapter,
            prompts=[p.text for p in population.prompts],
        )
        self.folder.sync()
        self.progress.evaluated(step, found.accuracy, found.kl, population.best.text)

    def close(self) -> None:
        """Close the record; the run folder is free for others then."""
        self.folder.close()


@dataclass
class RoundAccount:
    """The round under way: its number and cycle, both from 0, and what it reports while it runs."""

    books: Books
    kind: Literal["fast", "slow"]
    number: int
    cycle: int
    rewards: list[float] = field(default_factory=list)
    reflection: Mapping[str, object] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def reward(self) -> float:
        """Mean reward: of the round's steps, or of its best prompt."""
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0

    def step(self, step: int, result: StepResult, rollouts: Sequence[Rollout]) -> None:
        """Account for an optimizer step."""
        self.rewards.append(result.reward)
        self.books.step(self.number, step, result, rollouts)

    def fast(self, found: FastRound) -> None:
        """Account for the prompts that the round found, and for what reflection cost."""
        self.rewards.append(max(found.population.scores.values(), default=0.0))
        self.reflection = {
            "screening": vars(found.screening),
            "anchors": found.anchors,
            "given_up": found.given_up,
        }
        if found.usage:
            self.reflection = {**self.reflection, "reflector_usage": found.usage}
        self.books.prompts(self.number, found)
