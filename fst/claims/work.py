"""One piece of work, in a process of its own. Whatever is done is in its folder; work that ended is not done again,
work that was cut off goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fst.claims.plan import COLD, VARIANTS, Size, Work
from fst.config import Params, params_from_dict
from fst.data.domains import load_domain
from fst.data.lab.rules import parse_rule
from fst.data.types import Domain, SplitSizes
from fst.files import document, write_atomic
from fst.method.evaluation import mean_at
from fst.method.learner import Learner
from fst.method.lengths import fitting
from fst.method.loop import rounds
from fst.method.rollouts import Asker
from fst.method.run.runner import Job, has_ended, prepare, run_job
from fst.models.adapter import attach_adapter
from fst.models.lab.card import following
from fst.models.policy import load_policy
from fst.runs.progress import Progress
from fst.runs.records import RunFolder
from fst.store.bundle import write_bundle
from fst.types import Prompt, prompt_from_dict

RESULT = "result.json"


def merged(params: Params, changes: dict[str, Any]) -> Params:
    """Parameters with some sections' keys changed."""
    values = params.as_dict()
    return params_from_dict(values | {name: {**values[name], **keys} for name, keys in changes.items()})


def do(work: Work, params: Params, size: Size, folder: Path) -> None:
    """Do it, below `folder`. Raises FstError."""
    _DO[work.kind](work, params, size, folder)


def _run(work: Work, params: Params, size: Size, folder: Path) -> None:
    """Arms end when the rollouts are spent; `gepa`, which levels off long before, after the cycles that `fst` has."""
    rollouts = size.cold if work.domain == COLD else size.rollouts
    cycles = -(-rollouts // (params.loop.steps_per_cycle * params.rollouts_per_step)) if work.arm == "gepa" else 10_000
    changed = merged(params, VARIANTS[work.variant]) if work.variant else params
    _job(work, merged(changed, size.params(cycles=cycles, rollout_budget=rollouts)), folder)


def _transfer(work: Work, params: Params, size: Size, folder: Path) -> None:
    """A fresh run of RL alone that begins with another run's weights, not with its prompts."""
    start = folder / f"{work.name}.start" if work.start else None
    if work.start and start and not has_ended(folder / work.name):
        manifest = {"schema": 1, "base": {}, "start": None, "domains": {}, "run": None, "metrics": {}}
        facts = {**manifest, "candidate": None, "gate": None}
        write_bundle(start, facts, {"prompts.json": {}, "evaluation.json": {}}, _checkpoint(folder / work.start.name))
    _job(work, merged(params, size.params(rollout_budget=size.transfer)), folder, start)


def _job(work: Work, params: Params, folder: Path, start: Path | None = None) -> None:
    assert work.arm != "base"  # only what trains comes here
    run_job(Job(work.arm, work.domain, work.seed, folder / work.name, params, start=start), resume=True, quiet=True)


def _continual(work: Work, params: Params, size: Size, folder: Path) -> None:
    """One uninterrupted run; after `size.stage` cycles its problems are those of the next domain. Nothing tells the
    arm: population, weights and optimizer go on as they are."""
    assert work.arm != "base"  # only what trains comes here
    specs = work.domain.split(">")
    cycles = size.stage * len(specs)
    steps = cycles * params.loop.steps_per_cycle
    budget = steps * params.rollouts_per_step if work.arm == "rl" else 0
    own = merged(params, size.params(cycles=cycles, rollout_budget=budget))
    own = merged(own, {"evaluate": {"every": 1}})  # a stage's recovery is read off the evaluations of its rounds
    place = folder / work.name
    if has_ended(place):
        return
    progress = Progress(steps, cycles, work.arm, work.domain, quiet=True)
    learner = prepare(Job(work.arm, specs[0], work.seed, place, own), progress, resume=True)
    loaded = [load_domain(spec, SplitSizes.of(own), work.seed) for spec in specs]
    domains = [fitting(learner.policy, domain, own)[0] for domain in loaded]
    try:
        _stages(learner, domains, size.stage)
        for _ in rounds(learner):
            _stages(learner, domains, size.stage)
    finally:
        learner.books.close()


def _stages(learner: Learner, domains: list[Domain], cycles: int) -> None:
    """At the end of a stage: how it and those before it are solved, each under the prompt that was its best when it
    ended. Then the next one's problems."""
    cycle = learner.cycle if learner.arm != "rl" else learner.step // learner.params.loop.steps_per_cycle
    ended, inside = divmod(cycle, cycles)
    here = min(ended, len(domains) - 1)
    at_the_end = ended and not inside
    said = [e for e in learner.books.events() if e["kind"] == "stage"] if at_the_end else []
    if at_the_end and not any(e["ended"] == ended for e in said):
        kept = {e["on"]: prompt_from_dict(e["prompt"]) for e in said if e["on"] == e["ended"] - 1}
        kept[ended - 1] = learner.population.best
        for on, prompt in sorted(kept.items()):
            learner.switch(domains[on])
            found = learner.measure(prompt, domains[on].test, learner.round - 1)
            facts = {"accuracy": found.accuracy, "stderr": found.stderr, "kl": found.kl}
            learner.books.note("stage", round=learner.round - 1, ended=ended, on=on, prompt=prompt.as_dict(), **facts)
    learner.switch(domains[here])


def _following(work: Work, params: Params, size: Size, folder: Path) -> None:
    """Rules that were not trained on, asked in their own right words: what the weights still do without the evolved
    prompt."""
    policy = load_policy(params.model)
    if work.start:
        policy.model = attach_adapter(policy.model, _checkpoint(folder / work.start.name))
    own = [parse_rule(work.domain.removeprefix("lab/").removeprefix("letters:"))] if "lab/" in work.domain else []
    _write(folder / work.name, following(policy, own, work.seed))


def _zero(work: Work, params: Params, size: Size, folder: Path) -> None:
    """What the untrained base gets under the seed prompt."""
    policy = load_policy(params.model)
    samples = params.evaluate.samples
    domain = load_domain(work.domain, dataclasses.replace(SplitSizes.of(params), train=size.zero // samples), work.seed)
    asker = Asker(policy, domain.verify, "eval", 0)
    rollouts = asker.ask([(Prompt(params.loop.seed_prompt), p) for p in domain.train], samples, work.seed)
    _write(folder / work.name, {"rollouts": len(rollouts), "reward": mean_at(rollouts, samples).accuracy})


def _checkpoint(run: Path) -> Path:
    """The adapter that a run ended with."""
    last = RunFolder(run).last_checkpoint()
    assert last is not None  # what others build on is done first
    return last[1]


def _write(folder: Path, values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RESULT, document(values))


def is_done(work: Work, folder: Path) -> bool:
    """Whether there is nothing left to do of it."""
    place = folder / work.name
    return (place / RESULT).exists() if work.kind in ("following", "zero") else has_ended(place)


def result(work: Work, folder: Path) -> dict[str, Any]:
    """What a measurement found."""
    return dict(json.loads((folder / work.name / RESULT).read_text(encoding="utf-8")))


_DO: dict[str, Callable[[Work, Params, Size, Path], None]] = {
    "run": _run,
    "transfer": _transfer,
    "continual": _continual,
    "following": _following,
    "zero": _zero,
}
