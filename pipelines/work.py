"""What a flow's child process does: the stages of `fst stage`, training round by round, and releases.

A flow names these functions to its worker and never calls them, so this module imports torch and TRL inside of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.project import Project

if TYPE_CHECKING:
    from fst.method.learner import Learner
    from fst.release.candidate import Candidate
    from fst.release.gate import Decision

# What the child keeps between calls. A new child finds it again on the disk and in the store.
_training: dict[tuple[Project, str], Iterator[Learner]] = {}
_judged: dict[tuple[Project, str], tuple[Candidate, Decision]] = {}


def load_data() -> None:
    """Import what collecting, preparing and validating import, before they are asked for."""
    import fst.monitoring.collected
    import fst.stages.prepare  # noqa: F401
    from fst.config import ModelParams
    from fst.data.validation.gx import library
    from fst.models.reader import load_reader

    library()
    load_reader(ModelParams())  # the lab's: the classes are those of all tokenizers


def load() -> None:
    """Import what training and evaluation import, before they are asked for."""
    import fst.stages.evaluate
    import fst.stages.train  # noqa: F401


def base(project: Project, _: str) -> Path:
    """The stage of that name. It is the same for every domain."""
    from fst.stages.base import base

    return base(project.workspace)


def prepare(project: Project, name: str) -> Path:
    """The stage of that name."""
    from fst.stages.prepare import prepare

    return prepare(project.workspace, name)


def validate(project: Project, name: str) -> Path:
    """The stage of that name."""
    from fst.stages.validate import validate

    return validate(project.workspace, name)


def evaluate(project: Project, name: str) -> Path:
    """The stage of that name."""
    from fst.stages.evaluate import evaluate

    return evaluate(project.workspace, name)


def bundle(project: Project, name: str) -> Path:
    """The stage of that name."""
    from fst.stages.bundle import bundle

    return bundle(project.workspace, name)


def next_round(project: Project, name: str) -> dict[str, Any]:
    """Train the next round of a domain, from where its training stands. `more` says whether another round follows;
    `round` is None where none was left, `accuracy` and `kl` where no evaluation followed it."""
    rounds = _rounds(project, name)
    try:
        learner = next(rounds, None)
    except BaseException:
        del _training[project, name]  # the next attempt goes on from the last completed round
        raise
    if learner is None:
        return {"round": None, "more": False}
    done, measured = learner.books.last("round"), learner.books.last("evaluation")
    if measured["round"] != done["round"]:
        measured = {"accuracy": None, "kl": None}
    return {
        **{key: done[key] for key in ("round", "channel", "cycle", "step", "reward", "rollouts")},
        **{key: measured[key] for key in ("accuracy", "kl")},
        "prompt": learner.population.best.text,
        "more": not learner.finished,
    }


def finish_training(project: Project, name: str) -> dict[str, str]:
    """Evaluate a run whose rounds are done and write the outputs of the stage `train`. Returns its run folder."""
    from fst.stages.train import job_of

    left = _rounds(project, name)
    del _training[project, name]
    for _ in left:
        pass
    return {"run": str(job_of(project.workspace, name).folder)}


def plan_adaptation(project: Project, domain: str, channel: str, since: float) -> dict[str, Any]:
    """Collect a domain's problems from the traffic since a time, in seconds since the epoch, and find what to build on.
    Raises DataError when there are too few problems yet."""
    from fst.monitoring import collected

    return asdict(collected.plan_adaptation(project.params, project.places, domain, channel, since))


def reward(project: Project, name: str) -> float:
    """What the stage `evaluate` found for the domain that `name` serves, on problems that the gate counts."""
    from fst.release.gate import trusted
    from fst.stages.outputs import read_document

    found = read_document(project.places.evaluated(name) / "evaluation.json", f"fst stage evaluate {name}")
    return trusted(found[project.params.served_as(name)])


def judge(project: Project, name: str) -> dict[str, Any]:
    """The gate's decision about a domain's candidate. `released` is the bundle that the candidate became in an earlier
    release, else None."""
    from fst.release.candidate import Candidate

    candidate = Candidate.of(project.workspace, name)
    facts = {"path": str(candidate.decision_file), "candidate": candidate.bundle.id, "channel": candidate.channel.name}
    if candidate.released_as:
        return {**facts, "verdict": "release", "reasons": [], "released": candidate.released_as}
    decision = candidate.judge()
    _judged[project, name] = candidate, decision
    return {**facts, "verdict": decision.verdict, "reasons": decision.reasons, "released": None}


def publish(project: Project, name: str) -> dict[str, str]:
    """Release the candidate as it was judged, against the production that it was judged against."""
    if (project, name) not in _judged and (before := judge(project, name)["released"]):
        return {"bundle": before}
    candidate, decision = _judged.pop((project, name))
    return {"bundle": candidate.release(decision)}


def _rounds(project: Project, name: str) -> Iterator[Learner]:
    """The rounds that are left of a domain's training. It begins, or goes on from its records, where none is under
    way."""
    from fst.stages.train import train_rounds

    if (project, name) not in _training:
        _training[project, name] = train_rounds(project.workspace, name, quiet=True)
    return _training[project, name]
