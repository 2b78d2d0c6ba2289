"""The fast round: GEPA evolves the prompts under the current slow weights.

Invariants, each with a test: P1 no score of older weights survives: every carried prompt is re-scored;
P2 a round spends at most its budget of rollouts, and has enough for as many proposals as `FastParams.room` says;
P3 the population is never empty; P4 a reflector that returns garbage, nothing or 100 KB, or that raises now and then,
costs no existing prompt, and one that fails every time ends the round with its last error; P5 prompts stay within the
token cap; P6 no text is in the frontier twice; P7 same seed and weights, same round; P8 with `feedback: reward` no
right answer to a problem that was failed reaches the reflector; P9 a prompt on the frontier was scored on all anchors
of the round, and one that was given up is not on it; P10 a proposal that is behind its parent only by ties is as good
as its parent; P11 a prompt's score on a problem that it shows as an example does not count.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gepa
from gepa.core.adapter import EvaluationBatch
from gepa.core.state import GEPAState, ValsetEvaluation
from gepa.strategies.batch_sampler import EpochShuffledBatchSampler
from gepa.strategies.eval_policy import FullEvaluationPolicy

from fst.config import FastParams
from fst.data.scoring import without_answer
from fst.data.types import Problem
from fst.errors import ReflectorError
from fst.method.fast.account import Screening
from fst.method.fast.demonstrations import read
from fst.method.fast.frontier import deal, greedy_cover, mean_score
from fst.method.fast.rules import COMPONENT, Acceptance, Parents
from fst.models.reflector import Proposal, Reflector
from fst.types import Population, Prompt, Rollout

Roll = Callable[[Sequence[tuple[Prompt, Problem]]], list[Rollout]]
log = logging.getLogger("fst")


@dataclass
class FastRound:
    """The result: the new population; the prompts met, by id, with scores {prompt: {problem: reward}}; rollouts
    `spent`; the account of reflection (`screening`) and the reflector's own usage since the run began, if it keeps any.
    Prompts were scored on `anchors` problems, and `given_up` proposals not on all of them; `rollouts` has those of the
    population's prompts, in the order in which they were sampled."""

    population: Population
    scores: dict[str, dict[str, float]]
    prompts: dict[str, Prompt]
    reflections: dict[str, dict[str, Any]]
    spent: int
    screening: Screening
    usage: Mapping[str, Any] | None = None
    anchors: int = 0
    given_up: int = 0
    rollouts: list[Rollout] = field(default_factory=list)


@dataclass(frozen=True)
class Evolver:
    """The tools of a fast round: `roll` answers and scores (prompt, problem) pairs in one batch, `reflector` writes
    prompts, `count_tokens` measures them; `on_proposal(spent, budget, best)` is called at every proposal."""

    roll: Roll
    reflector: Reflector
    params: FastParams
    count_tokens: Callable[[str], int]
    on_proposal: Callable[[int, int, float], None] = lambda spent, budget, best: None


@dataclass(frozen=True)
class RoundPlan:
    """The settings of one round: its number, seed and budget in rollouts, and the RL steps taken so far (`weights`)."""

    number: int
    seed: int
    budget: int
    weights: int


@dataclass
class _Adapter:
    """GEPA's view of the policy: prompts in, scored rollouts and feedback out."""

    evolver: Evolver
    plan: RoundPlan
    screening: Screening = field(default_factory=Screening)
    known: dict[str, Prompt] = field(default_factory=dict)
    reflections: dict[str, dict[str, Any]] = field(default_factory=dict)
    feedback: dict[str, str] = field(default_factory=dict)  # the latest of each anchor
    scored: dict[str, list[Rollout]] = field(default_factory=dict)  # on all anchors, for GEPA to fetch
    rollouts: list[Rollout] = field(default_factory=list)
    barren: int = 0
    best: float = 0.0
    failure: Exception | None = None  # the reflector's last
    propose_new_texts: None = None  # part of GEPA's protocol; proposals come from `propose` below

    @property
    def spent(self) -> int:
        return len(self.rollouts)

    def told(self, rollout: Rollout) -> str:
        """The feedback on a rollout that reflection may read: with `feedback: reward`, without the right answer."""
        full = self.evolver.params.feedback == "full" or rollout.reward >= 1
        return rollout.feedback if full else without_answer(rollout.feedback, rollout.reward)

    def score(self, pairs: Sequence[tuple[Prompt, Problem]]) -> list[Rollout]:
        rollouts = self.evolver.roll(pairs) if pairs else []
        self.rollouts += rollouts
        self.feedback.update((rollout.problem_id, self.told(rollout)) for rollout in rollouts)
        return rollouts

    def batch_evaluate(self, items: list[tuple[dict[str, str], list[Problem]]]) -> list[EvaluationBatch[Any, Any]]:
        return [self.evaluate(batch, candidate) for candidate, batch in items]

    def evaluate(
        self, batch: list[Problem], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        prompt = self._prompt(candidate)
        mine = self.scored.pop(prompt.id, None) or self.score([(prompt, problem) for problem in batch])
        return EvaluationBatch([r.text for r in mine], [r.reward for r in mine], trajectories=mine)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[Any, Any], components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {COMPONENT: [{"Feedback": self.told(rollout)} for rollout in eval_batch.trajectories or []]}

    def propose(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components: list[str],
    ) -> dict[str, str]:
        """Make one proposal. Returns {} (and GEPA spends nothing) for an empty, too long or already known text."""
        self.barren += 1
        feedback = [str(record["Feedback"]) for record in reflective_dataset[COMPONENT]]
        parent = self._prompt(candidate)
        avoid = frozenset(p.text for p in self.known.values())
        proposal = self._ask(parent.text, feedback, avoid)
        self.evolver.on_proposal(self.spent, self.plan.budget, self.best)
        if proposal is None:
            return {}
        text, longest = proposal.text.strip(), self.evolver.params.max_prompt_tokens
        if self.screening.refuses(text, avoid, longest, self.evolver.count_tokens):
            return {}
        prompt = Prompt(text, (parent.id,), proposal.origin, self.plan.number)
        self.known[prompt.id] = prompt
        self.reflections[prompt.id] = {
            "feedback": "\n\n".join(feedback) if proposal.origin == "reflection" else "",
            "proposals": proposal.drawn,
            "screened": proposal.screened,
            "seconds": round(proposal.seconds, 3),
        }
        return {COMPONENT: text}

    def _ask(self, current: str, feedback: list[str], avoid: frozenset[str]) -> Proposal | None:
        """Ask the reflector for a proposal, and count the call. Returns None if it failed."""
        seed = hash((self.plan.seed, self.barren, len(self.known))) % 2**62
        evidence = [text for text in self.feedback.values() if text not in feedback]
        try:
            proposal = self.evolver.reflector.propose(current, feedback, evidence, avoid, seed)
        except Exception as error:  # whatever a reflector raises costs one proposal; see `check`
            self.screening.asked += 1
            self.screening.errors += 1
            self.screening.last_error = f"{type(error).__name__}: {error}"
            self.failure = error
            log.warning("round %d: the reflector failed, no proposal: %s", self.plan.number, error)
            return None
        self.screening.add(proposal)
        self.screening.asked += proposal.origin == "reflection"
        return proposal

    def check(self) -> None:
        """Raise ReflectorError, with the last failure, if every call of the reflector failed."""
        if self.failure and self.screening.errors == self.screening.asked:
            last = str(self.failure) or type(self.failure).__name__
            raise ReflectorError(
                f"round {self.plan.number}: all {self.screening.asked} calls of the reflector failed, the last with: "
                f"{last}. The rounds before this one are saved: mend it, then go on with --resume"
            ) from self.failure

    def _prompt(self, candidate: dict[str, str]) -> Prompt:
        prompt = Prompt(candidate[COMPONENT])
        return self.known.setdefault(prompt.id, prompt)


class _CarriedState(FullEvaluationPolicy):
    """Scores every new prompt on all anchors; the carried prompts come scored in the state already."""

    def get_seed_eval_batch(self, loader: Any) -> list[Any]:
        return []


class _Silent:
    def log(self, message: str) -> None:
        """Drop GEPA's own log; the records have everything in it."""


@dataclass
class _Stop:
    """Ends the round when the next proposal would exceed the budget, when `patience` proposals in a row brought no
    improvement, when a prompt's mean score is 1, or after as many iterations as the budget has rollouts."""

    adapter: _Adapter
    anchors: int
    iterations: int = 0

    def __call__(self, state: GEPAState[Any, Any]) -> bool:
        best = max((mean_score(s) for s in state.prog_candidate_val_subscores), default=0.0)
        if best > self.adapter.best:
            self.adapter.best, self.adapter.barren = best, 0
        self.iterations += 1
        params, budget = self.adapter.evolver.params, self.adapter.plan.budget
        next_cost = 2 * params.minibatch + self.anchors
        return (
            self.adapter.spent + next_cost > budget
            or self.adapter.barren >= params.patience
            or best >= 1.0
            or self.iterations > budget
        )


def fast_round(evolver: Evolver, population: Population, anchors: Sequence[Problem], plan: RoundPlan) -> FastRound:
    """Run one GEPA round from the carried population (paper, section 3; GEPA's per-instance frontier).

    Scores are rewards of one sample each at T=1 on the anchors, all under the plan's weights. Deviations from
    GEPA: a round starts with several carried prompts, scored on as many of the anchors as leave room for proposals
    (`FastParams.room`); a proposal is screened before it costs a rollout (fst/models/reflector.py) and given up once
    more rollouts could not help it (fst/method/fast/trial.py); rewards may tie. If the budget is below one rollout per
    carried prompt, the population stays as it is, without scores. Raises ReflectorError if every call of the reflector
    failed.
    """
    params = evolver.params
    carried = list({prompt.id: prompt for prompt in population.prompts}.values())
    adapter = _Adapter(evolver, plan)
    adapter.known = {prompt.id: prompt for prompt in carried}
    anchors = anchors[: params.room(plan.budget, len(carried))[0]]
    if not anchors:
        population = Population(tuple(deal(carried, params.prompts)), {}, plan.weights)
        return FastRound(population, {}, adapter.known, {}, 0, adapter.screening)
    rollouts = iter(adapter.score([(prompt, problem) for prompt in carried for problem in anchors]))
    rescored = [{i: next(rollouts).reward for i in range(len(anchors))} for _ in carried]
    state: GEPAState[Any, Any] = GEPAState({COMPONENT: carried[0].text}, ValsetEvaluation({}, rescored[0]))
    state.num_full_ds_evals, state.total_num_evals = 1, 0
    for prompt, scores in zip(carried[1:], rescored[1:], strict=True):
        state.update_state_with_new_program([0], {COMPONENT: prompt.text}, ValsetEvaluation({}, scores), None, 0)
    acceptance = Acceptance(adapter.known, adapter.score, anchors, params.tie, adapter.scored)
    rng = random.Random(plan.seed % 2**31)
    with tempfile.TemporaryDirectory(prefix="fst-gepa-") as folder:
        state.save(folder)
        gepa.optimize(
            seed_candidate={COMPONENT: carried[0].text},
            trainset=list(anchors),
            valset=list(anchors),
            adapter=adapter,
            custom_candidate_proposer=adapter.propose,
            candidate_selection_strategy=Parents(rng, params.tie),
            batch_sampler=EpochShuffledBatchSampler(min(params.minibatch, len(anchors)), rng),
            stop_callbacks=_Stop(adapter, len(anchors)),
            val_evaluation_policy=_CarriedState(),
            acceptance_criterion=acceptance,
            cache_evaluation=False,
            track_best_outputs=False,
            logger=_Silent(),
            run_dir=folder,
        )
        final: GEPAState[Any, Any] = GEPAState.load(folder)
    adapter.check()
    return _result(adapter, final, acceptance)


def _result(adapter: _Adapter, state: GEPAState[Any, Any], acceptance: Acceptance) -> FastRound:
    scores: dict[str, dict[str, float]] = {}
    for candidate, by_index in zip(state.program_candidates, state.prog_candidate_val_subscores, strict=True):
        prompt = Prompt(candidate[COMPONENT])
        shown = read(prompt.text).questions
        judged = ((acceptance.anchors[i], float(score)) for i, score in by_index.items())
        scores.setdefault(prompt.id, {problem.id: s for problem, s in judged if problem.question not in shown})
    params = adapter.evolver.params
    members = greedy_cover(scores, params.prompts, params.tie)
    population = Population(
        tuple(adapter.known[name] for name in deal(members, params.prompts)),
        {name: mean_score(scores[name]) for name in members},
        adapter.plan.weights,
    )
    return FastRound(
        population,
        scores,
        adapter.known,
        adapter.reflections,
        adapter.spent,
        adapter.screening,
        getattr(adapter.evolver.reflector, "usage", None),
        len(acceptance.anchors),
        acceptance.given_up,
        [rollout for rollout in adapter.rollouts if rollout.prompt_id in population.scores],
    )
