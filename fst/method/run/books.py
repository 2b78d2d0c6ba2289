"""The books of a run: its rollout counts, its record and its progress display.

Everything that a run counts or records goes through `Books`; fst/runs/view.py reads the record lines back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fst.method.balance import Decision, Seen, gained_by_prompts, gained_by_steps
from fst.method.evaluation import Evaluation
from fst.method.fast.frontier import mean_score
from fst.method.fast.round import FastRound
from fst.method.run import ranks
from fst.method.run.spans import noted
from fst.method.slow.weights import StepResult
from fst.models.memory import peak_bytes
from fst.runs.outcome import Tally, Trouble, no_proposal, no_signal
from fst.runs.progress import Progress
from fst.runs.records import RunFolder, events_back, events_of
from fst.runs.trackers import Trackers
from fst.types import Budget, Population, Prompt, Purpose, Rollout

log = logging.getLogger("fst")


@dataclass
class Books:
    """The counts and records of one run. `limit` is the most rollouts that the run may spend on learning, `seconds` the
    time it has spent on learning so far; neither includes evaluation. `learned_from` tallies the answers of the current
    round, `evaluated` those of the latest evaluation; `said` has the kinds of trouble already logged."""

    folder: RunFolder
    progress: Progress
    limit: int
    budget: Budget = field(default_factory=Budget)
    seconds: float = 0.0
    learned_from: Tally = field(default_factory=Tally)
    evaluated: Tally = field(default_factory=Tally)
    said: set[str] = field(default_factory=set)
    trackers: Trackers = field(default_factory=Trackers)

    @property
    def left(self) -> int:
        """Learning rollouts that may still be spent; negative where the last round ended above the limit."""
        return self.limit - self.budget.learning

    def note(self, kind: str, **values: Any) -> None:
        """Put an event on the record, and show it in the trackers."""
        self.folder.event(kind, **values)
        self.trackers.event(kind, values, self.budget.learning)
        noted(kind, self.folder.path.name, values)

    def events(self) -> list[dict[str, Any]]:
        """The events in force so far."""
        return events_of(self.folder.path)

    def last(self, kind: str) -> dict[str, Any]:
        """The last event in force of this kind. Raises StopIteration if there is none."""
        return next(event for event in events_back(self.folder.path) if event["kind"] == kind)

    def count(self, purpose: Purpose, rollouts: Sequence[Rollout], round_number: int) -> None:
        """Add rollouts to the budget and, under a round's number, to the record. Nothing else adds to either."""
        self.budget.add(purpose, len(rollouts))
        self.folder.rollouts(round_number, rollouts)
        self.trackers.count(purpose, rollouts)
        self.progress.counted(len(rollouts))
        if purpose == "eval":
            self.evaluated = Tally()
            self.evaluated.add(rollouts)
        else:
            self.learned_from.add(rollouts)
            self.warn(round_number, self.learned_from.trouble(whole=False))

    def warn(self, round_number: int, trouble: Trouble | None) -> None:
        """Record what keeps the run from learning, at most once per round and kind, and log it once per run."""
        if trouble is None or trouble.kind in self.learned_from.told:
            return
        self.learned_from.told.add(trouble.kind)
        self.note("trouble", round=round_number, trouble=trouble.kind, says=trouble.says, samples=list(trouble.samples))
        if trouble.kind not in self.said and not ranks.rank():
            log.warning("round %d: %s", round_number, trouble.text())
        self.said.add(trouble.kind)

    def open_round(self, purpose: Purpose, number: int, cycle: int) -> RoundAccount:
        """Begin a round and start its clock."""
        account = RoundAccount(self, "fast" if purpose == "fast" else "slow", number, cycle)
        self.learned_from = Tally()
        self.progress.round_started(account.kind, cycle)
        return account

    def close_round(self, account: RoundAccount, step: int, population: Population) -> None:
        """Record a completed round, with the optimizer step and the population it ended with."""
        seconds = time.monotonic() - account.started
        self.seconds += seconds
        for trouble in account.troubles(population):
            self.warn(account.number, trouble)
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
        """Count and record an optimizer step; `step` is its number in the run, from 1."""
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
            reused=result.reused,
            optimism=result.optimism,
        )
        self.trackers.show({f"trl/{name}": value for name, value in result.figures.items()}, self.budget.learning)
        tokens = sum(len(rollout.tokens) for rollout in rollouts)
        signal = f"signal in {result.kept_groups} of {result.groups} groups"
        signal += f", {result.reused} rollouts reused" if result.reused else ""
        spent = f"{result.seconds:.1f} s for {tokens:,} new tokens, at most {peak_bytes() / 2**30:.1f} GiB so far"
        self.progress.step(step, result.reward, f"{signal}, {spent}")

    def balanced(self, round_number: int, decision: Decision, by: Sequence[str]) -> None:
        """Record which round comes next, why, and by which means (`by`) it looks for signal."""
        self.note("balance", round=round_number, next=decision.purpose, search=list(by), why=decision.why)

    def prompts(self, round_number: int, found: FastRound) -> None:
        """Record every prompt that a fast round met. Its rollouts were counted when they were made."""
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
        """Record the best prompt's figures on the validation split after a round."""
        self.note(
            "evaluation",
            round=round_number,
            step=step,
            split="validation",
            **_figures(found),
            prompt=prompt.id,
            rollouts=self.budget.as_dict(),
            seconds=round(self.seconds, 3),
        )
        self.progress.evaluated(step, found.mean, found.kl, prompt.text)

    def probed(self, prompt: Prompt, found: Evaluation) -> None:
        """Log and record what the evaluation before the first round shows: how good the untrained model is, how answers
        are scored, and what is wrong with them."""
        trouble = self.evaluated.trouble()
        samples = list(self.evaluated.samples.values())
        self.note("probe", round=-1, prompt=prompt.id, says=trouble and trouble.says, samples=samples)
        n, each = len(found.problems), self.evaluated.answers // max(1, len(found.problems))
        lines = [f"before training, mean@{each} on {n} problems under {prompt.text!r}: {found.mean}; for instance"]
        self.progress.say("\n".join([*lines, *samples, *([f"beware: {trouble.says}"] if trouble else [])]))

    def end(self, round_number: int, step: int, found: Evaluation, adapter: str, population: Population) -> None:
        """Record the final figures and the adapter's SHA-256, and sync the record to disk."""
        self.note(
            "end",
            round=round_number,
            **_figures(found),
            rollouts=self.budget.as_dict(),
            seconds=round(self.seconds, 3),
            adapter_sha256=adapter,
            prompts=[p.text for p in population.prompts],
        )
        self.folder.sync()
        self.progress.evaluated(step, found.mean, found.kl, population.best.text)

    def close(self) -> None:
        """Close the trackers and the record, which releases the run folder's lock."""
        self.trackers.close()
        self.folder.close()


@dataclass
class RoundAccount:
    """The account of the current round: its number and cycle, both from 0, and the figures collected while it runs."""

    books: Books
    kind: Literal["fast", "slow"]
    number: int
    cycle: int
    rewards: list[float] = field(default_factory=list)
    groups: int = 0
    kept_groups: int = 0
    born: int = 0
    gained: float = 0.0
    reflection: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def reward(self) -> float:
        """Mean reward of a slow round's steps, or of a fast round's best prompt."""
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0

    def step(self, step: int, result: StepResult, rollouts: Sequence[Rollout]) -> None:
        """Account for an optimizer step."""
        self.rewards.append(result.reward)
        self.groups, self.kept_groups = self.groups + result.groups, self.kept_groups + result.kept_groups
        self.books.step(self.number, step, result, rollouts)

    def fast(self, found: FastRound) -> None:
        """Account for the prompts that the round found, and for what reflection cost."""
        self.rewards.append(max(found.population.scores.values(), default=0.0))
        self.gained = gained_by_prompts(found.scores, found.reflections)
        self.reflection = {
            "screening": vars(found.screening),
            "anchors": found.anchors,
            "given_up": found.given_up,
        }
        if found.usage:
            self.reflection = {**self.reflection, "reflector_usage": found.usage}
        self.born = len(found.reflections)
        self.books.prompts(self.number, found)

    def seen(self, spent: int) -> Seen:
        """The completed round in the form that fst/method/balance.py decides on; `spent` is its number of rollouts."""
        if self.kind == "fast":
            return Seen("fast", spent, self.reward, self.gained)
        return Seen("train", spent, self.reward, gained_by_steps(self.rewards), self.groups, self.kept_groups)

    def troubles(self, population: Population) -> list[Trouble]:
        """Find what kept the completed round from teaching anything. In a slow round, trouble with the answers is
        reported instead of the lack of signal that it explains."""
        answers = self.books.learned_from.trouble()
        if self.kind == "slow":
            alike = None if answers else no_signal(self.groups, self.kept_groups, self.reward)
        else:
            evolved = any(prompt.origin != "seed" for prompt in population.prompts)
            alike = no_proposal(self.reflection.get("screening", {}), self.born, evolved)
        return [trouble for trouble in (answers, alike) if trouble]


def _figures(found: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation under their names in the record."""
    return {
        "accuracy": found.accuracy,
        "stderr": found.stderr,
        "n": len(found.problems),
        "binary": found.binary,
        "kl": found.kl,
        "kl_seed_prompt": found.kl_seed_prompt,
    }
