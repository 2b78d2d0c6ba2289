"""What the child process of a flow does: the stages of the plain CLI, round by round where they train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fst.method.learner import Learner
from fst.monitoring import collected
from fst.release.candidate import Candidate
from fst.release.gate import Decision
from fst.stages.outputs import read_document
from fst.stages.stages import Stages
from pipelines.project import Project

# What the child keeps between calls; lost with it, and found again on the disk and in the store.
_training: dict[tuple[Project, str], Iterator[Learner]] = {}
_judged: dict[tuple[Project, str], tuple[Candidate, Decision]] = {}


def _stages(project: Project) -> Stages:
    return Stages(project.params, project.places, quiet=True)


def run_stage(project: Project, stage: str, name: str) -> dict[str, Any]:
    """One stage but training, to its end."""
    stages = _stages(project)
    out = stages.base() if stage == "base" else getattr(stages, stage)(name)
    return {"path": str(out)}


def next_round(project: Project, name: str) -> dict[str, Any]:
    """The next round of a domain's training, from where it stands. `more` says whether another follows."""
    if (project, name) not in _training:
        _training[project, name] = _stages(project).train_rounds(name)
    try:
        learner = next(_training[project, name], None)
    except BaseException:
        del _training[project, name]  # another attempt begins anew, from the last completed round
        raise
    if learner is None:
        return {"round": None, "more": False}
    events = learner.books.events()
    last = {kind: [e for e in events if e["kind"] == kind][-1] for kind in ("round", "evaluation")}
    return {
        "round": last["round"]["round"],
        "channel": last["round"]["channel"],
        "cycle": last["round"]["cycle"],
        "step": last["round"]["step"],
        "reward": last["round"]["reward"],
        "rollouts": last["round"]["rollouts"],
        "accuracy": last["evaluation"]["accuracy"],
        "kl": last["evaluation"]["kl"],
        "prompt": learner.population.best.text,
        "more": not learner.finished,
    }


def finish_training(project: Project, name: str) -> dict[str, Any]:
    """The final evaluation of a run whose rounds are done, and the stage's outputs."""
    unfinished = _training.pop((project, name), None) or _stages(project).train_rounds(name)
    for _ in unfinished:
        pass
    stages = _stages(project)
    return {"path": str(stages.places.trained(name)), "run": str(stages.job(name).folder)}


def plan_adaptation(project: Project, domain: str, channel: str, since: float) -> dict[str, Any]:
    """The plan of an adaptation (fst/monitoring/collected.py). Raises DataError while there are too few problems."""
    return asdict(collected.plan_adaptation(project.params, project.places, domain, channel, since))


def reward(project: Project, name: str) -> dict[str, Any]:
    """What a stage's evaluation found for the domain that it serves."""
    return {"reward": read_document(project.places.metrics(name), f"fst stage evaluate {name}")["reward"]}


def judge(project: Project, name: str) -> dict[str, Any]:
    """The gate's decision about a domain's candidate; `released` names the bundle when production has it already."""
    candidate = Candidate.of(_stages(project), name)
    facts = {"path": str(candidate.decision_file), "candidate": candidate.bundle.id, "channel": candidate.channel.name}
    if candidate.released_as:
        return {**facts, "verdict": "release", "reasons": [], "released": candidate.released_as}
    decision = candidate.judge()
    _judged[project, name] = candidate, decision
    return {**facts, "verdict": decision.verdict, "reasons": decision.reasons, "released": None}


def publish(project: Project, name: str) -> dict[str, Any]:
    """Release the candidate as it was judged, against the production that it was judged against."""
    if (project, name) not in _judged and (before := judge(project, name)["released"]):
        return {"bundle": before}
    candidate, decision = _judged.pop((project, name))
    return {"bundle": candidate.release(decision)}
