"""The state of a run: weights, population and position. fst/method/schedule.py decides which problems it trains on and
when, fst/method/run/books.py counts and records, and the algorithm that drives it is in fst/method/loop.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fst.config import Params, Signal
from fst.data.domains import seed_prompt
from fst.data.types import Domain, Problem
from fst.method.balance import Decision, Met, Seen, decide, met, with_failed, with_mixed
from fst.method.evaluation import Evaluation, Meter, mean_at
from fst.method.fast.demonstrations import demonstrating
from fst.method.fast.round import Evolver, FastRound, RoundPlan
from fst.method.parts import Parts, parts_of
from fst.method.rollouts import Asker, Pair
from fst.method.run import ranks
from fst.method.run.books import Books, RoundAccount
from fst.method.schedule import Schedule, draw_seed, schedule_for
from fst.method.slow.reuse import Spare, spare
from fst.method.slow.weights import SlowWeights, StepResult
from fst.models.adapter import adapter_sha256
from fst.models.policy import Policy
from fst.models.reflector import Reflector
from fst.spans import span
from fst.types import Arm, Population, Prompt, Purpose, Rollout

T = TypeVar("T")


@dataclass
class Learner:
    """One run of one arm on one domain. `round` counts completed rounds, `cycle` completed cycles, `draws` the seeds
    drawn for batches of samples. `started` is whether the run began with an adapter that was trained before. `spare`
    has the rollouts that the slow round after a fast one may reuse, `seen` the completed rounds, `met` how each problem
    was rewarded when it was last met, and `decision` what the current round does."""

    arm: Arm
    domain: Domain
    params: Params
    policy: Policy
    reflector: Reflector
    books: Books
    seed: int
    slow_weights: SlowWeights | None
    population: Population
    started: bool = False
    round: int = 0
    cycle: int = 0
    draws: int = 0
    spare: Spare = field(default_factory=Spare)
    seen: list[Seen] = field(default_factory=list)
    met: dict[str, Met] = field(default_factory=dict)
    decision: Decision = field(default_factory=Decision)

    @property
    def slow(self) -> SlowWeights:
        """The slow weights. Raises TypeError in the arm `gepa`, which has none."""
        if self.slow_weights is None:
            raise TypeError(f"arm {self.arm} keeps its slow weights frozen")
        return self.slow_weights

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.slow_weights.step if self.slow_weights else 0

    @property
    def moved(self) -> bool:
        """Whether the policy differs from the base: by steps of this run, or by the adapter it started from."""
        return bool(self.step) or self.started

    @property
    def seed_prompt(self) -> Prompt:
        """The prompt that the first fast round begins with; KL is measured under it as well."""
        return Prompt(seed_prompt(self.params.loop.seed_prompt, self.domain))

    @property
    def carried(self) -> Population:
        """The population that the next fast round begins with."""
        return self.population if self.params.fast.carry else Population((self.seed_prompt,))

    @property
    def finished(self) -> bool:
        """Whether the arm's cycles or parts are complete, or its learning rollouts are spent."""
        if self.parts.sequential:
            return self.parts.over(self.books.budget, self.fast_rounds)
        return (self.arm != "rl" and self.cycle >= self.params.loop.cycles) or self.books.left <= 0

    @property
    def parts(self) -> Parts:
        """How many rollouts the arm may spend on each kind of round."""
        return parts_of(self.arm, self.params)

    @property
    def part(self) -> int:
        """The current part of the arm: 1 in the second part of a sequential arm, otherwise 0."""
        return self.parts.part(self.books.budget, self.fast_rounds)

    @property
    def fast_rounds(self) -> int:
        """Fast rounds completed."""
        return self.round - self.step // self.params.loop.steps_per_cycle

    @property
    def dealt(self) -> Population:
        """The prompts that a slow round deals over its groups; `gepa_rl` trains under the best one only."""
        return Population((self.population.best,)) if self.arm == "gepa_rl" else self.population

    @property
    def schedule(self) -> Schedule:
        """The order of the domain's training problems."""
        return schedule_for(self.domain.train, self.params, self.seed)

    @property
    def evolver(self) -> Evolver:
        """The tools of the fast round."""
        return Evolver(
            lambda pairs: self.roll("fast", pairs),
            demonstrating(self.reflector, self.policy, self.domain, self.params.fast),
            self.params.fast,
            self.policy.count_tokens,
            self.books.proposed,
        )

    def fast_plan(self) -> RoundPlan:
        """Plan the next fast round. An arm that does not alternate may spend on it what `fst` spends on both kinds."""
        budget = self.params.fast.budget if self.arm == "fst" else self.params.rollouts_per_cycle
        return RoundPlan(self.round, self.draw("fast"), min(budget, self.parts.left(self.books.budget)), self.step)

    def draw(self, purpose: Purpose) -> int:
        """Draw the seed of the next batch of samples."""
        self.draws += 1
        return draw_seed(self.seed, purpose, self.round, self.draws)

    def decide(self, order: Sequence[Purpose]) -> Purpose:
        """Decide the kind of the next round; `order` is the order of rounds in the arm's cycle. The reason is
        recorded."""
        loop = self.params.loop
        self.decision = decide(loop.balance, order, self.seen)
        if loop.balance != "fixed" or (loop.signal and self.decision.search):
            by = list(loop.signal) if self.decision.search else []
            self.books.balanced(self.round, self.decision, by)
        return self.decision.purpose

    def searches(self, means: Signal) -> bool:
        """Whether the current round looks for signal by these means."""
        return self.decision.search and means in self.params.loop.signal

    @property
    def temperature(self) -> float:
        """The sampling temperature of the current slow round."""
        return self.params.loop.signal_temperature if self.searches("temperature") else 1.0

    def batches(self) -> Iterator[list[Problem]]:
        """Yield the problems of each step of the current slow round."""
        schedule = self.schedule
        for batch in schedule.batches(self.step):
            yield with_mixed(batch, schedule.problems, self.met) if self.searches("problems") else batch

    def anchors(self) -> list[Problem]:
        """The problems that the current fast round scores prompts on."""
        schedule = self.schedule
        anchors = schedule.anchors(self.cycle)
        return with_failed(anchors, schedule.problems, self.met, self.cycle) if self.searches("failures") else anchors

    def train_step(self, problems: Sequence[Problem]) -> tuple[StepResult, list[Rollout]]:
        """Take one RL step (see SlowWeights.train_step) and remember how each problem was rewarded."""
        result, rollouts = self.slow.train_step(self.dealt, problems, self.spare, self.temperature)
        self.met.update(met((rollout.problem_id, rollout.reward) for rollout in rollouts))
        return result, rollouts

    def adopt(self, found: FastRound) -> None:
        """Continue with the prompts that a fast round found, and keep its rollouts of them if `loop.reuse` is on;
        remember how its anchors were rewarded."""
        self.population, self.spare = found.population, spare(found.rollouts if self.params.loop.reuse else ())
        if self.searches("prompts"):
            prompts = (*self.population.prompts[:-1], self.seed_prompt)
            self.population = replace(self.population, prompts=prompts)
        rows = [found.scores.get(prompt.id, {}) for prompt in self.population.prompts]
        self.met.update(met(pair for row in rows for pair in row.items()))

    def switch(self, domain: Domain) -> None:
        """Continue with the problems of another domain. Call it between cycles."""
        if domain.spec != self.domain.spec:
            self.met.clear()
        self.domain = domain
        if self.slow_weights:
            self.slow_weights.verify = domain.verify

    @contextlib.contextmanager
    def in_round(self, purpose: Purpose) -> Iterator[RoundAccount]:
        """Run a round in the block: time it, and record and count it if the block completes."""
        account, spent = self.books.open_round(purpose, self.round, self.cycle), self.books.budget.learning
        with span(f"{account.kind} round"):
            yield account
            self.books.close_round(account, self.step, self.population)
        self.seen.append(account.seen(self.books.budget.learning - spent))
        self.round += 1
        if purpose == "train":
            self.spare = Spare()

    def once(self, work: Callable[[], T]) -> T:
        """Do `work`, on rank 0 only if several processes train. Every rank returns its result, and continues with the
        draw count and the budget that rank 0 then has."""
        if ranks.sharded():
            ranks.share(self.policy.engine)
            return work()
        found, self.draws, self.books.budget = ranks.of_first(lambda: (work(), self.draws, self.books.budget))
        return found

    def roll(
        self, purpose: Purpose, pairs: Sequence[Pair], samples: int = 1, round_number: int | None = None
    ) -> list[Rollout]:
        """Answer, score and count (prompt, problem) pairs, `samples` answers each, in one batch. The rollouts are
        recorded under the current round, or under `round_number` if they belong to an earlier one: resuming after that
        round then keeps them."""
        asker = Asker(self.policy, self.domain.verify, purpose, self.step)
        rollouts = asker.ask(pairs, samples, self.draw(purpose))
        self.books.count(purpose, rollouts, self.round if round_number is None else round_number)
        return rollouts

    def measure(self, prompt: Prompt, problems: Sequence[Problem], round_number: int | None = None) -> Evaluation:
        """Measure accuracy under a prompt, and KL on the same answers with this prompt and with the seed prompt."""
        samples = self.params.evaluate.samples
        rollouts = self.roll("eval", [(prompt, p) for p in problems], samples, round_number)
        meter = Meter(self.policy, self.params.evaluate, self.seed_prompt, self.moved)
        return meter.read(prompt, problems, rollouts)

    def evaluate(self) -> None:
        """Measure the best prompt on the validation split before the first round, after every `evaluate.every`-th and
        after the last. A skipped evaluation still uses up its draw, so `evaluate.every` does not change what a run
        learns."""
        if self.round % self.params.evaluate.every and not self.finished:
            self.draws += 1
            return
        best, completed = self.population.best, self.round - 1
        found = self.once(lambda: self.measure(best, self.domain.validation, completed))
        self.books.evaluation(completed, self.step, best, found)
        if not self.round:
            self.books.probed(best, found)

    def conclude(self) -> None:
        """Measure and record the final figures, which ends the run."""
        final, cells = self.once(self._final)
        adapter = adapter_sha256(self.slow_weights.adapter()) if self.slow_weights else ""
        self.books.note("cells", cells=cells, n=len(self.domain.test), round=self.round)
        self.books.end(self.round, self.step, final, adapter, self.population)

    def _final(self) -> tuple[Evaluation, dict[str, float]]:
        """Measure the figures on the test split and the four cells {base, trained} x {seed, evolved}. Cells that must
        be equal (untrained weights, or a best prompt that is still the seed) are measured once."""
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
        return final, cells

    def _accuracy(self, prompt: Prompt) -> float:
        samples = self.params.evaluate.samples
        return mean_at(self.roll("eval", [(prompt, p) for p in self.domain.test], samples), samples).accuracy
