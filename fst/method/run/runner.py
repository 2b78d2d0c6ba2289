"""Runs a job from its parameters to the end: load what it needs, check everything before training, run the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fst.config import Params, params_from_record
from fst.data.domains import load_domain, seed_prompt
from fst.data.prepared import load_prepared
from fst.data.types import Domain, SplitSizes
from fst.errors import ConfigError, RecordError
from fst.extras import require
from fst.method.distill.weights import DistilledWeights, prompt_to_distil
from fst.method.fast.demonstrations import cleared
from fst.method.fast.reflectors import build_reflector
from fst.method.learner import Learner
from fst.method.lengths import fitting
from fst.method.loop import rounds
from fst.method.parts import parts_of, planned
from fst.method.run import ranks
from fst.method.run.books import Books
from fst.method.run.checkpoint import restore, take
from fst.method.run.plan import Plan, plan_run
from fst.method.run.start import first_population, start_key
from fst.method.slow.trainer import trl_config
from fst.method.slow.weights import SlowWeights
from fst.models.adapter import attach_adapter
from fst.models.engines.registry import load_with_engine
from fst.models.reader import load_reader
from fst.runs.origin import base_sha256, commit, data_sha256, problems_sha256, versions
from fst.runs.progress import Progress
from fst.runs.records import ASKED, RunFolder, check_same, events_back
from fst.runs.trackers import Trackers
from fst.spans import span
from fst.store.bundle import Bundle, read_bundle
from fst.types import Arm, Population, Prompt

log = logging.getLogger("fst")


@dataclass(frozen=True)
class Job:
    """One run to do: an arm on a domain with a seed, recorded in `folder`. `problems` is a folder of prepared
    problems; without it they are made from the domain's spec. `start` is the folder of a bundle: training continues
    from its adapter, and its prompts for the domain, if any, are the first population; `serves` is the name that the
    bundle has for the domain."""

    arm: Arm
    domain: str
    seed: int
    folder: Path
    params: Params
    problems: Path | None = None
    start: Path | None = None
    serves: str = ""


def plan_of(job: Job, domain: Domain) -> Plan:
    """Estimate the memory and rollouts that a job on a domain needs. Reads only the model's tokenizer and
    configuration."""
    reader = load_reader(job.params.model)
    encoded = reader.encode([reader.messages("", problem.question) for problem in domain.train])
    room = reader.room(job.params)  # longer questions are left out
    plan = plan_run(job.params, max((n for n in map(len, encoded) if room is None or n <= room), default=0))
    return dataclasses.replace(plan, parts=parts_of(job.arm, job.params).says())


def problems_of(job: Job) -> Domain:
    """Load the problems of a job, or make them from its domain's spec."""
    if job.problems:
        return load_prepared(job.problems)
    return load_domain(job.domain, SplitSizes.of(job.params), job.seed)


def summary_of(folder: Path) -> dict[str, Any]:
    """Return the `end` event of a run, which is its last; empty if the run has not ended."""
    last = next(events_back(folder), {})
    return last if last.get("kind") == "end" else {}


def has_ended(folder: Path) -> bool:
    """Whether the run in a folder has reached its end."""
    return bool(summary_of(folder))


def config_of(job: Job, domain: Domain, start: Bundle | None) -> dict[str, Any]:
    """The content of a run's config.json: what was asked for, and hashes and versions of what the run is made of."""
    params = job.params
    return {
        "run": job.folder.name,
        "arm": job.arm,
        "domain": job.domain,
        "seed": job.seed,
        "params": params.of_run(),
        "base_sha256": base_sha256(params.model.base),
        "data_sha256": data_sha256(domain),
        "test_sha256": problems_sha256(domain.test),
        "start": start_key(start, job.domain, job.serves),
        "places": {
            "problems": job.problems and str(job.problems),
            "start": job.start and str(job.start),
            "serves": job.serves,
        },
        "commit": commit(),
        "versions": versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def prepare(job: Job, progress: Progress, resume: bool = False) -> Learner:
    """Load model, domain and records. Nothing is written before everything has been checked.

    Raises FstError for anything that the user can fix: a domain, a model, a folder that is in use.
    """
    params = job.params
    for tracker in params.track.to:
        require(tracker)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(params.model.threads)
    torch.manual_seed(job.seed)
    problems = problems_of(job)
    plan_of(job, problems).check()
    start = read_bundle(job.start) if job.start else None
    policy = load_with_engine(params)
    if ranks.sharded() and not policy.engine.own_weights:
        raise ConfigError(
            f"model.engine: {params.model.engine} answers with the trained model, which FSDP and DeepSpeed's stage 3 "
            "keep in parts: processes whose answers end at different times would wait for each other; say vllm"
        )
    domain, left_out = fitting(policy, problems, params)
    reflector = build_reflector(policy, params, domain)
    trl_config(params.slow, params.model, job.folder, job.seed)  # in every arm: refuses options, joins the ranks
    population = first_population(start, domain, params, job.serves)
    if (size := policy.count_tokens(population.best.text)) > params.fast.max_prompt_tokens:
        log.warning(
            "%s: the first prompt has %d tokens, and fast.max_prompt_tokens lets evolved ones have %d: raise it",
            *(domain.spec, size, params.fast.max_prompt_tokens),
        )
    if job.arm == "distill":
        seed = Population((Prompt(seed_prompt(params.loop.seed_prompt, domain)),))
        taught, population = prompt_to_distil(population, seed.best, job.domain), seed
    elif job.arm != "rl":
        ranks.of_first(reflector.check)
    config = config_of(job, problems, start)
    alike = {key: value for key, value in config.items() if key not in ("run", "places", "created")}
    ranks.agree(alike, "parameters, problems, model, start or versions")
    going_on = resume and (job.folder / "config.json").exists()
    ranks.wait()  # all have looked before one of them creates it
    if ranks.rank() == 0:
        folder = (RunFolder.resume if going_on else RunFolder.create)(job.folder, config)
    else:
        folder = RunFolder.create(ranks.own_folder(job.folder), config)
    slow = None
    adapter = start.adapter if start else None
    if job.arm != "gepa":
        kind = DistilledWeights if job.arm == "distill" else SlowWeights
        slow = kind(policy, params.slow, params.model, domain.verify, job.folder, job.seed)
        if adapter:
            slow.start_from(adapter)
        if isinstance(slow, DistilledWeights):
            slow.teach(taught, adapter)
    elif adapter:
        policy.model = attach_adapter(policy.model, adapter)
    learner = Learner(
        arm=job.arm,
        domain=domain,
        params=params,
        policy=policy,
        reflector=reflector,
        books=Books(folder, progress, params.rollout_budget),
        seed=job.seed,
        slow_weights=slow,
        population=cleared(population, problems),
        started=adapter is not None,
    )
    if going_on:
        restore(learner, job.folder)
    if left_out and learner.round == 0:
        learner.books.note("left out", round=-1, **vars(left_out))
    return learner


def run_job(job: Job, resume: bool = False, quiet: bool = False) -> Path:
    """Run a job to its end and return its folder; see `run_rounds`."""
    with span("run", {"fst.run": job.folder.name}):
        for _ in run_rounds(job, resume, quiet):
            pass
    return job.folder


def run_rounds(job: Job, resume: bool = False, quiet: bool = False) -> Iterator[Learner]:
    """Run a job to its end, round by round; yields its state after each round, once it is saved. With `resume`, an
    interrupted run continues after its last completed round, a run that has ended is left as it is, and one that never
    started is started."""
    params = job.params
    if resume and has_ended(job.folder):
        asked = (job.arm, job.domain, job.seed, params.of_run())
        check_same(job.folder, dict(zip(ASKED, asked, strict=True)))
        return
    with Progress(*planned(job.arm, params), job.arm, job.domain, quiet=quiet or ranks.rank() > 0) as progress:
        learner = prepare(job, progress, resume)
        progress.drawn = lambda: learner.policy.drawn
        try:
            show(learner)
            for _ in rounds(learner):
                yield learner
        finally:
            learner.books.close()


def show(learner: Learner) -> None:
    """Open the trackers that the run's parameters name, continuing where the run is. Only rank 0 does it."""
    track, folder, spent = learner.params.track, learner.books.folder.path, learner.books.budget.learning
    if track.to and not ranks.rank():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        learner.books.trackers = Trackers.open(track, folder, config, spent)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def evaluate_run(folder: Path, split: str, prompt: str | None = None) -> dict[str, Any]:
    """Measure a run's last checkpoint on a split, under its best prompt or a given one. The run's folder is not
    changed, and its reflector is not needed.

    Raises RecordError if the folder has no run or no checkpoint.
    """
    with reopened(folder) as (learner, last):
        take(learner, last)
        chosen = Prompt(prompt) if prompt is not None else learner.population.best
        problems = getattr(learner.domain, split)
        result = learner.measure(chosen, problems)
    return {
        "run": folder.name,
        "split": split,
        "prompt": chosen.text,
        "accuracy": result.accuracy,
        "stderr": result.stderr,
        "n": len(problems),
        "binary": result.binary,
        "kl": result.kl,
        "rollouts": len(problems) * learner.params.evaluate.samples,
    }


@contextlib.contextmanager
def reopened(folder: Path) -> Iterator[tuple[Learner, Path]]:
    """Yield the learner of a run as it was before its first round, and the folder of its last checkpoint. Its rollouts
    are not recorded with the run, and its reflector is not needed. Raises RecordError as `evaluate_run` does."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as exc:
        raise RecordError(f"{folder} is not a run folder (no readable config.json)") from exc
    last = RunFolder(folder).last_checkpoint()
    if last is None:
        raise RecordError(f"{folder} has no completed round yet; let it run, or resume it")
    places, params = config.get("places", {}), params_from_record(config["params"])
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            config["arm"],
            config["domain"],
            config["seed"],
            Path(scratch) / folder.name,
            params.replace(reflector=params.reflector.replace(kind="policy")),
            problems=_path(places.get("problems")),
            start=_path(places.get("start")),
            serves=places.get("serves", ""),
        )
        learner = prepare(job, Progress(1, 1, job.arm, job.domain, quiet=True))
        try:
            yield learner, last[1]
        finally:
            learner.books.close()
