"""The state of a run and its books: weights, population, budget, records, evaluation. The algorithm that
drives it is fst/method/loop.py."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fst.config import Params
from fst.data.types import Domain, Problem
from fst.method.evaluation import Evaluation, Meter, mean_at
from fst.method.fast import Evolver, FastRound, RoundPlan
from fst.method.rollouts import Asker
from fst.method.slow import SlowWeights, StepResult
from fst.models.adapter import adapter_sha256
from fst.models.policy import Policy
from fst.models.reflector import Reflector
from fst.runs.progress import Progress
from fst.runs.records import RunFolder
from fst.types import Arm, Budget, Population, Prompt, Purpose, Rollout

_SEEDS = {"train": 1, "fast": 2, "eval": 3, "order": 4}


@dataclass
class Learner:
    """One run of one arm on one domain. `round` counts completed rounds, `cycle` completed cycles, `step`
    optimizer steps; `seconds` is time spent learning, evaluation left out."""

    arm: Arm
    domain: Domain
    params: Params
    policy: Policy
    reflector: Reflector
    folder: RunFolder
    progress: Progress
    seed: int
    slow_weights: SlowWeights | None
    population: Population
    started: bool = False  # from an adapter that was trained before
    budget: Budget = field(default_factory=Budget)
    round: int = 0
    cycle: int = 0
    seconds: float = 0.0
    calls: int = 0

    @property
    def slow(self) -> SlowWeights:
        """The slow weights; the arm `gepa` has none."""
        if self.slow_weights is None:
            raise TypeError(f"arm {self.arm} keeps its slow weights frozen")
        return self.slow_weights

    @property
    def step(self) -> int:
        return self.slow_weights.step if self.slow_weights else 0

    @property
    def moved(self) -> bool:
        """Whether the policy differs from the base: by steps of this run, or by the adapter it started from."""
        return bool(self.step) or self.started

    @property
    def seed_prompt(self) -> Prompt:
        return Prompt(self.params.loop.seed_prompt)

    @property
    def carried(self) -> Population:
        """What the next fast round begins with."""
        return self.population if self.params.fast.carry else Population((self.seed_prompt,))

    @property
    def finished(self) -> bool:
        if self.arm != "rl" and self.cycle >= self.params.loop.cycles:
            return True
        return self.budget.learning >= self.params.rollout_budget

    @property
    def evolver(self) -> Evolver:
        """What the fast round works with, bound to this run's books."""
        return Evolver(
            lambda pairs: self.roll("fast", pairs),
            self.reflector,
            self.params.fast,
            self.policy.count_tokens,
            self.progress.fast,
        )

    def fast_plan(self) -> RoundPlan:
        """The next fast round. `gepa` alone may spend on it what `fst` spends on both kinds of round."""
        params = self.params
        both = params.fast.budget + params.loop.steps_per_cycle * params.rollouts_per_step
        budget = min(both if self.arm == "gepa" else params.fast.budget, params.rollout_budget - self.budget.learning)
        return RoundPlan(self.round, self.seed_for("fast"), budget, self.step)

    def seed_for(self, purpose: str) -> int:
        """A seed of its own for every call, the same again after a resume."""
        self.calls += 1
        return hash((self.seed, _SEEDS[purpose], self.round, self.calls)) % 2**62

    # -- problems ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _ordered(self) -> list[Problem]:
        """The training problems in this seed's order."""
        problems = list(self.domain.train)
        random.Random(hash((self.seed, _SEEDS["order"])) % 2**62).shuffle(problems)
        return problems

    def switch(self, domain: Domain) -> None:
        """Go on with the problems of another domain."""
        self.domain = domain
        self.__dict__.pop("_ordered", None)
        if self.slow_weights:
            self.slow_weights.verify = domain.verify

    def _batch(self, step: int) -> list[Problem]:
        """The problems of an RL step; the training split is gone through again and again in one order."""
        problems, size = self._ordered, self.params.slow.problems_per_step
        return [problems[(step * size + i) % len(problems)] for i in range(size)]

    def next_batches(self) -> list[list[Problem]]:
        return [self._batch(self.step + t) for t in range(self.params.loop.steps_per_cycle)]

    def anchors(self) -> list[Problem]:
        """The first problems of the next T batches, so that prompts fit what the slow round will meet."""
        first = self.cycle * self.params.loop.steps_per_cycle
        upcoming = [p for t in range(self.params.loop.steps_per_cycle) for p in self._batch(first + t)]
        return list({p.id: p for p in upcoming}.values())[: self.params.fast.anchors]

    # -- rollouts ---------------------------------------------------------------------------------------

    def roll(
        self,
        purpose: Purpose,
        pairs: Sequence[tuple[Prompt, Problem]],
        samples: int = 1,
        round_number: int | None = None,
    ) -> list[Rollout]:
        """Answer, score, record and count (prompt, problem) pairs, `samples` answers each, in one batch."""
        asker = Asker(self.policy, self.domain.verify, purpose, self.step)
        rollouts = asker.ask(pairs, samples, self.seed_for(purpose))
        self.count(purpose, rollouts, round_number)
        return rollouts

    def count(self, purpose: Purpose, rollouts: Sequence[Rollout], round_number: int | None = None) -> None:
        """The only place where a rollout enters the budget and the record: that of the round under way, or of
        `round_number` for a look back, which a resume after that round keeps."""
        self.budget.add(purpose, len(rollouts))
        self.folder.rollouts(self.round if round_number is None else round_number, rollouts)

    # -- rounds -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_round(self, purpose: Purpose) -> Iterator[RoundAccount]:
        """Time a round, write its events, count it as completed."""
        self.progress.round_started("fast" if purpose == "fast" else "slow", self.cycle)
        account = RoundAccount(self)
        started = time.monotonic()
        yield account
        seconds = time.monotonic() - started
        self.seconds += seconds
        self.folder.event(
            "round",
            round=self.round,
            channel="fast" if purpose == "fast" else "slow",
            cycle=self.cycle,
            step=self.step,
            seconds=round(seconds, 3),
            reward=account.reward,
            population=[p.id for p in self.population.prompts],
            scores=self.population.scores,
            rollouts=self.budget.as_dict(),
            **account.extra,
        )
        self.round += 1

    def evaluate(self) -> None:
        """mean@n of the best prompt on the validation split, and drift; its rollouts are counted apart."""
        result = self.measure(self.population.best, self.domain.validation, self.round - 1)
        self.folder.event(
            "evaluation",
            round=self.round - 1,
            step=self.step,
            split="validation",
            accuracy=result.accuracy,
            stderr=result.stderr,
            kl=result.kl,
            kl_seed_prompt=result.kl_seed_prompt,
            prompt=self.population.best.id,
            rollouts=self.budget.as_dict(),
            seconds=round(self.seconds, 3),
        )
        self.progress.evaluated(self.step, result.accuracy, result.kl, self.population.best.text)

    def measure(self, prompt: Prompt, problems: Sequence[Problem], round_number: int | None = None) -> Evaluation:
        """Accuracy, and drift on the answers just given: with this prompt in context and with the seed prompt."""
        samples = self.params.evaluate.samples
        rollouts = self.roll("eval", [(prompt, p) for p in problems], samples, round_number)
        meter = Meter(self.policy, self.params.evaluate, self.seed_prompt, self.moved)
        return meter.read(prompt, problems, rollouts)

    def conclude(self) -> None:
        """The final figures on the test split and the four cells; cells that are the same by nature (weights that
        were not trained, a prompt that is still the seed) are measured once."""
        best, seed = self.population.best, self.seed_prompt
        final = self.measure(best, self.domain.test)
        cells = {"trained/evolved": final.accuracy}
        cells["trained/seed"] = final.accuracy if best.id == seed.id else self._accuracy(seed)
        with self.policy.frozen_base():
            cells["base/evolved"] = self._accuracy(best) if self.moved else cells["trained/evolved"]
            if best.id == seed.id:
                cells["base/seed"] = cells["base/evolved"]
            else:
                cells["base/seed"] = self._accuracy(seed) if self.moved else cells["trained/seed"]
        self.folder.event("cells", cells=cells, n=len(self.domain.test), round=self.round)
        self.folder.event(
            "end",
            round=self.round,
            accuracy=final.accuracy,
            stderr=final.stderr,
            kl=final.kl,
            kl_seed_prompt=final.kl_seed_prompt,
            rollouts=self.budget.as_dict(),
            seconds=round(self.seconds, 3),
            adapter_sha256=adapter_sha256(self.slow_weights.adapter()) if self.slow_weights else "",
            prompts=[p.text for p in self.population.prompts],
        )
        self.folder.sync()
        self.progress.evaluated(self.step, final.accuracy, final.kl, best.text)

    def _accuracy(self, prompt: Prompt) -> float:
        samples = self.params.evaluate.samples
        return mean_at(self.roll("eval", [(prompt, p) for p in self.domain.test], samples), samples).accuracy


@dataclass
class RoundAccount:
    """What a round reports while it runs."""

    learner: Learner
    rewards: list[float] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def reward(self) -> float:
        return sum(self.rewards) / len(self.rewards) if self.rewards else 0.0

    def step(self, result: StepResult, rollouts: Sequence[Rollout]) -> None:
        learner = self.learner
        learner.count("train", rollouts)
        learner.folder.event(
            "step",
            round=learner.round,
            step=learner.step,
            reward=result.reward,
            groups=result.groups,
            kept_groups=result.kept_groups,
            loss=result.loss,
            grad_norm=result.grad_norm,
            seconds=round(result.seconds, 3),
        )
        self.rewards.append(result.reward)
        learner.progress.step(learner.step, result.reward)

    def fast(self, found: FastRound) -> None:
        learner = self.learner
        for name, prompt in found.prompts.items():
            scores = found.scores.get(name, {})
            learner.folder.event(
                "prompt",
                round=learner.round,
                id=name,
                text=prompt.text,
                parents=list(prompt.parents),
                origin=prompt.origin,
                score=sum(scores.values()) / len(scores) if scores else None,
                reflection=found.reflections.get(name),
            )
        self.rewards.append(max(found.population.scores.values()))
        self.extra["screening"] = vars(found.screening)
        if usage := getattr(learner.reflector, "usage", None):
            self.extra["reflector_usage"] = usage
