"""What finished work says: curves, cells, stages, and what was spent. Nothing but `made` depends on when it ran."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fst.claims.curves import Point
from fst.claims.plan import Work
from fst.claims.work import RESULT, result
from fst.runs.records import events_of
from fst.runs.view import RunView, load_run


@dataclass(frozen=True)
class Run:
    """A run that ended. `stages` are those of a continual run; of each RL step, `rewards` has the mean reward and
    `signal` the share of groups whose rewards differ."""

    work: Work
    curve: tuple[Point, ...]
    accuracy: float
    cells: dict[str, float]
    rollouts: dict[str, int]
    rewards: tuple[float, ...]
    stages: tuple[dict[str, Any], ...]
    prompt: str
    signal: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        work = self.work
        start = work.start.name if work.start else None
        facts = {"name": work.name, "kind": work.kind, "arm": work.arm, "domain": work.domain, "seed": work.seed}
        return {**facts, "start": start, **{k: v for k, v in asdict(self).items() if k != "work"}}


@dataclass(frozen=True)
class Evidence:
    """All finished work of a plan. `measured` are the results of work that is no run."""

    runs: tuple[Run, ...]
    measured: dict[Work, dict[str, Any]]

    def of(self, arm: str, domain: str, kind: str = "run", start: str | None = None) -> list[Run]:
        """Runs in the order of their seeds; `start` is the arm that a transfer's weights come from and its domain,
        as "rl lab/reverse", "" for none."""
        found = [r for r in self.runs if (r.work.kind, r.work.arm, r.work.domain) == (kind, arm, domain)]
        if start is not None:
            found = [r for r in found if _begun(r.work) == start]
        return sorted(found, key=lambda r: r.work.seed)

    def results(self, kind: str, arm: str, domain: str) -> list[dict[str, Any]]:
        """Measurements in the order of their seeds."""
        found = [w for w in self.measured if (w.kind, w.arm, w.domain) == (kind, arm, domain)]
        return [self.measured[w] for w in sorted(found, key=lambda w: w.seed)]


def gather(works: tuple[Work, ...], folder: Path) -> Evidence:
    """Read what was done. Raises RecordError for records that are damaged."""
    runs, measured = [], {}
    for work in works:
        if (folder / work.name / RESULT).exists():
            measured[work] = result(work, folder)
        else:
            runs.append(_run(work, load_run(folder / work.name), folder / work.name))
    return Evidence(tuple(runs), measured)


def made(works: tuple[Work, ...], folder: Path) -> dict[str, str]:
    """When and by what: commits and versions that the runs wrote down, and the time that they took."""
    views = [load_run(folder / work.name) for work in works if not (folder / work.name / RESULT).exists()]
    seconds = sum(float(view.end["seconds"]) for view in views if view.end)
    versions = dict.fromkeys(f"{name} {number}" for view in views for name, number in view.config["versions"].items())
    return {
        "runs": f"{len(views)}, {seconds / 60:.0f} minutes of one core",
        "made by commit": ", ".join(sorted({view.config["commit"] for view in views})),
        "versions": ", ".join(versions),
    }


def _run(work: Work, view: RunView, folder: Path) -> Run:
    assert view.end is not None  # the plan was done
    events = events_of(folder)
    keys = ("ended", "on", "accuracy", "stderr", "kl", "prompt")
    stages = tuple({key: event[key] for key in keys} for event in events if event["kind"] == "stage")
    return Run(
        work=work,
        curve=tuple(_point(event) for event in view.evaluations),
        accuracy=view.end["accuracy"],
        cells=view.cells or {},
        rollouts=view.result.rollouts,
        rewards=tuple(float(step["reward"]) for step in view.steps),
        stages=stages,
        prompt=view.end["prompts"][0],
        signal=tuple(step["kept_groups"] / step["groups"] for step in view.steps if step.get("groups")),
    )


def _point(event: dict[str, Any]) -> Point:
    spent = event["rollouts"]
    train, fast = spent.get("train", 0), spent.get("fast", 0)
    return Point(event["step"], train, train + fast, event["accuracy"], event["kl"], event.get("kl_seed_prompt", 0.0))


def _begun(work: Work) -> str:
    return f"{work.start.arm} {work.start.domain}" if work.start else ""
