"""The stage `train`: a domain's training run, from the bundle that it builds on to its weights and prompts.

Training keeps its records and checkpoints outside of the stage's output, in a run folder named by a hash of everything
that decides what it does: a stage that was cut off goes on, and one whose inputs changed starts anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from fst.method.learner import Learner
from fst.method.run import ranks
from fst.method.run.runner import Job, run_rounds
from fst.method.run.start import start_key
from fst.runs.origin import base_sha256, data_sha256
from fst.runs.records import rollouts_of
from fst.spans import span
from fst.stages.outputs import problems, read_document, start
from fst.stages.trained import export_run
from fst.stages.workspace import Workspace

SOURCES = Path(__file__).resolve().parents[1]  # the package


def train(workspace: Workspace, name: str, quiet: bool = False) -> Path:
    """Run the training to its end, validate its log, write models/trained/<name> and return the folder."""
    with span("run", {"fst.domain": name}):
        for _ in train_rounds(workspace, name, quiet):
            pass
    return workspace.places.trained(name)


def train_rounds(workspace: Workspace, name: str, quiet: bool = False) -> Iterator[Learner]:
    """`train`, round by round; yields its state after each round, when it is saved."""
    from fst.data.validation import require, validate_rollouts, write_page

    job, places = job_of(workspace, name), workspace.places
    yield from run_rounds(job, resume=True, quiet=quiet)
    if ranks.rank():
        return  # rank 0 has the record, and writes the outputs
    known = {problem.id for problem in problems(workspace, name).problems}
    log = validate_rollouts(rollouts_of(job.folder), name, known)
    write_page([log], job.folder / "rollouts.html")
    require([log], job.folder / "rollouts.html")
    export_run(job.folder, start(workspace, name), places.trained(name), places.curve(name))


def job_of(workspace: Workspace, name: str) -> Job:
    """The training run of a domain."""
    params, places, domain = workspace.of(name), workspace.places, workspace.params.domain(name)
    arm, seed, spec, serves = params.train.arm, params.train.seed, domain.full_spec, workspace.params.served_as(name)
    decisive = (arm, spec, seed, params.of_run(), base_sha256(params.model.base))
    taken_over = start_key(start(workspace, name), spec, serves)
    key = [*decisive, data_sha256(problems(workspace, name)), taken_over, sources_sha256()]
    run = f"{name}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]}"
    return Job(
        arm, spec, seed, places.runs / run, params, places.prepared(name), workspace.bundled(domain.start), serves
    )


def latest_runs(workspace: Workspace) -> list[Path]:
    """Run folders about the domains: the latest run of each, and those of other arms on the same problems."""
    params, runs = workspace.params, workspace.places.runs
    specs = {facts.full_spec for facts in params.domains.values()}
    own, others = [], []
    for name in params.domains:
        found = list(runs.glob(f"{name}-{'[0-9a-f]' * 12}/events.jsonl"))
        own += [max(found, key=lambda events: events.stat().st_mtime).parent] if found else []
    for config in sorted(runs.glob("*/config.json")):
        facts = read_document(config, "fst train")
        if facts["domain"] in specs and facts["arm"] != params.train.arm:
            others.append(config.parent)
    return own + others


def sources_sha256() -> str:
    """Content hash of the package's code, sub-packages included: other code, another run."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.rglob("*.py")):
        digest.update(file.relative_to(SOURCES).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
