"""From parameters to a finished run: loads what a run needs, checks it before any training, and runs the loop."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.domains import load_domain
from data.types import Domain, SplitSizes
from fst.checkpoint import restore, take
from fst.config import Params, params_from_dict
from fst.errors import DataError, RecordError
from fst.learner import Learner
from fst.loop import train
from fst.progress import Progress
from fst.records import ASKED, RunFolder, check_same, read_lines, valid_lines
from fst.slow import SlowWeights
from fst.slow_trl import trl_config
from fst.types import Arm, Population, Prompt
from models.endpoint import EndpointConfig, EndpointReflector
from models.policy import LAB_BASE, Policy, load_policy
from models.reflector import CallableReflector, PolicyReflector, Reflector

VERSIONED = ("torch", "transformers", "trl", "peft", "gepa")


@dataclass(frozen=True)
class Job:
    """One run to do: an arm on a domain with a seed, recorded in `folder`."""

    arm: Arm
    domain: str
    seed: int
    folder: Path
    params: Params


def commit() -> str:
    """The project's git commit, with `+changes` when the working tree differs; `unknown` outside git."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", root, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if dirty.strip() else "")


def base_sha256(base: str) -> str:
    """Content hash of a local base model's weights; a hub id stands for itself."""
    folder = LAB_BASE if base == "lab" else Path(base)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    digest = hashlib.sha256(b"" if files else base.encode())
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def data_sha256(domain: Domain) -> str:
    """Content hash of all problems of all splits."""
    digest = hashlib.sha256()
    for split in (domain.train, domain.validation, domain.test):
        for p in split:
            digest.update(json.dumps([p.id, p.question, p.answer], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def build_reflector(policy: Policy, params: Params) -> Reflector:
    """The reflector that params.yaml asks for."""
    r = params.reflector
    if r.kind == "policy":
        return PolicyReflector(policy, r.proposals, r.max_new_tokens, r.temperature, r.style)
    config = EndpointConfig(
        r.base_url, r.endpoint_model, r.api_key_env, r.timeout_seconds, r.max_retries, temperature=r.temperature
    )
    return CallableReflector(EndpointReflector(config))


def check_lengths(policy: Policy, domain: Domain, params: Params) -> None:
    """Refuse problems that do not fit the model's context with the longest prompt allowed and an answer."""
    context = getattr(policy.model.config, "max_position_embeddings", None)
    if context is None:
        return
    room = context - params.fast.max_prompt_tokens - params.model.max_new_tokens
    problems = (*domain.train, *domain.validation, *domain.test)
    encoded = policy.encode([policy.messages("", problem.question) for problem in problems])
    for problem, length in zip(problems, map(len, encoded), strict=True):
        if length > room:
            raise DataError(
                f"problem {problem.id!r} of {domain.spec} has {length} tokens; the model reads {context}, which leaves "
                f"{room} after fast.max_prompt_tokens and model.max_new_tokens. Shorten the problem, lower those, or "
                "pick a model with a longer context"
            )


def has_ended(folder: Path) -> bool:
    """Whether the run in a folder reached its end."""
    return any(event["kind"] == "end" for event in valid_lines(read_lines(folder / "events.jsonl")))


def prepare(job: Job, progress: Progress, resume: bool = False) -> Learner:
    """Load model, domain and records; nothing is written before everything has been checked.

    Raises FstError for whatever a user can mend: a domain, a model, a folder that is taken.
    """
    params = job.params
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(params.model.threads)
    torch.manual_seed(job.seed)
    sizes = SplitSizes(params.data.train, params.data.validation, params.data.test)
    domain = load_domain(job.domain, sizes, job.seed)
    policy = load_policy(params.model.base, params.model.max_new_tokens, params.model.dtype)
    check_lengths(policy, domain, params)
    reflector = build_reflector(policy, params)
    trl_config(params.slow, params.model, job.folder, job.seed)
    config = {
        "run": job.folder.name,
        "arm": job.arm,
        "domain": job.domain,
        "seed": job.seed,
        "params": params.as_dict(),
        "base_sha256": base_sha256(params.model.base),
        "data_sha256": data_sha256(domain),
        "commit": commit(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    going_on = resume and (job.folder / "config.json").exists()
    folder = (RunFolder.resume if going_on else RunFolder.create)(job.folder, config)
    slow = None
    if job.arm != "gepa":
        slow = SlowWeights(policy, params.slow, params.model, domain.verify, job.folder, job.seed)
    learner = Learner(
        arm=job.arm,
        domain=domain,
        params=params,
        policy=policy,
        reflector=reflector,
        folder=folder,
        progress=progress,
        seed=job.seed,
        slow_weights=slow,
        population=Population((Prompt(params.loop.seed_prompt),)),
    )
    if going_on:
        restore(learner)
    return learner


def run_job(job: Job, resume: bool = False, quiet: bool = False) -> Path:
    """Run a job to its end and return its folder. With `resume`, a run that was cut off goes on from its last
    completed round, one that ended is left as it is, and one that never started starts."""
    params = job.params
    if resume and has_ended(job.folder):
        asked = (job.arm, job.domain, job.seed, params.as_dict())
        check_same(job.folder, dict(zip(ASKED, asked, strict=True)))
        return job.folder
    steps = (
        params.rollout_budget // params.rollouts_per_step
        if job.arm == "rl"
        else params.loop.cycles * params.loop.steps_per_cycle
    )
    with Progress(steps, params.loop.cycles, job.arm, job.domain, quiet=quiet) as progress:
        learner = prepare(job, progress, resume)
        try:
            train(learner)
        finally:
            learner.folder.close()
    return job.folder


def summary_of(folder: Path) -> dict[str, Any]:
    """The `end` event of a finished run."""
    ends = [e for e in valid_lines(read_lines(folder / "events.jsonl")) if e["kind"] == "end"]
    return ends[-1] if ends else {}


def evaluate_run(folder: Path, split: str, prompt: str | None = None) -> dict[str, Any]:
    """Measure a run's last checkpoint on a split, under its best prompt or a given one. The run stays as it is.

    Raises RecordError when the folder has no run or no checkpoint.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as exc:
        raise RecordError(f"{folder} is not a run folder (no readable config.json)") from exc
    last = RunFolder(folder).last_checkpoint()
    if last is None:
        raise RecordError(f"{folder} has no completed round yet; let it run, or resume it")
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            config["arm"],
            config["domain"],
            config["seed"],
            Path(scratch) / folder.name,
            params_from_dict(config["params"]),
        )
        learner = prepare(job, Progress(1, 1, job.arm, job.domain, quiet=True))
        take(learner, last[1])
        chosen = Prompt(prompt) if prompt is not None else learner.population.best
        problems = getattr(learner.domain, split)
        result = learner.measure(chosen, problems)
        learner.folder.close()
    return {
        "run": folder.name,
        "split": split,
        "prompt": chosen.text,
        "accuracy": result.accuracy,
        "stderr": result.stderr,
        "kl": result.kl,
        "rollouts": len(problems) * learner.params.evaluation.samples,
    }
