"""A run folder read back: what the events say once void and torn lines are left out.

Read-only, and safe beside a living run: an unfinished run is a run whose `end` event has not come yet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst.errors import RecordError
from fst.runs.outcome import Outcome, outcome_of
from fst.runs.records import valid_lines
from fst.types import ARMS, prompt_id

Event = dict[str, Any]

ARM_NAMES = {
    "fst": "Fast-slow",
    "rl": "Slow only",
    "gepa": "Fast only",
    "rl_gepa": "Slow, then fast",
    "gepa_rl": "Fast, then slow",
    "distill": "Distilled",
}

_CONFIG_FIELDS = ("arm", "domain", "seed", "params", "commit", "versions")
_EVENT_FIELDS = {
    "prompt": ("round", "id", "text", "parents", "origin", "score"),
    "step": ("round", "step", "reward"),
    "round": ("round", "channel", "cycle", "step", "seconds", "reward", "population", "rollouts"),
    "evaluation": ("round", "step", "accuracy", "kl", "rollouts", "seconds"),
    "cells": ("round", "cells"),
    "trouble": ("round", "trouble", "says", "samples"),
    "balance": ("round", "next", "search", "why"),
    "resume": ("round",),
    "end": ("round", "accuracy", "kl", "rollouts", "seconds"),
}


@dataclass(frozen=True)
class PromptView:
    """A prompt of a run's lineage. `born` is the round that first proposed it, `score` its latest mean
    reward on anchors, `rank` its place in the last population (1 = best, None = not a member).
    `parents` names only prompts that the run wrote before this one, so the lineage has no loops."""

    id: str
    text: str
    parents: tuple[str, ...]
    origin: str
    born: int
    score: float | None
    feedback: str
    rank: int | None


@dataclass(frozen=True)
class Point:
    """One evaluation of a learning curve; `learning` = training + fast rollouts, `kl` in nats per token."""

    round: int
    learning: float
    accuracy: float
    kl: float


@dataclass(frozen=True)
class Result:
    """Where a run stands: test accuracy once it ended, until then its last validation accuracy."""

    accuracy: float | None
    stderr: float | None
    kl: float | None
    rollouts: dict[str, int]
    seconds: float | None


@dataclass(frozen=True)
class RunView:
    """One run. `steps`, `rounds` and `evaluations` are its valid events in the order they were written; `outcome` is
    whether they taught it anything."""

    path: Path
    config: Event
    prompts: tuple[PromptView, ...]
    steps: tuple[Event, ...]
    rounds: tuple[Event, ...]
    evaluations: tuple[Event, ...]
    cells: dict[str, float] | None
    end: Event | None
    outcome: Outcome

    @property
    def name(self) -> str:
        return str(self.config.get("run", self.path.name))

    @property
    def arm(self) -> str:
        return str(self.config["arm"])

    @property
    def domain(self) -> str:
        return str(self.config["domain"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def finished(self) -> bool:
        return self.end is not None

    @property
    def result(self) -> Result:
        last = self.end or (self.evaluations[-1] if self.evaluations else {})
        rollouts = last.get("rollouts", {})
        return Result(
            accuracy=number(last.get("accuracy")),
            stderr=number(last.get("stderr")),
            kl=number(last.get("kl")),
            rollouts={purpose: int(rollouts.get(purpose, 0)) for purpose in ("train", "fast", "eval")},
            seconds=number(last.get("seconds")),
        )

    @property
    def samples(self) -> int | None:
        """Answers per problem of an evaluation; None where the record does not say."""
        value = self.config["params"].get("evaluate", {}).get("samples")
        return value if isinstance(value, int) else None

    @property
    def binary(self) -> bool:
        """Whether every reward of its evaluations was 0 or 1, so that their mean is an accuracy."""
        return all(event.get("binary", True) for event in (*self.evaluations, *([self.end] if self.end else [])))

    @property
    def problems(self) -> int | None:
        """Problems that its result was measured on; None where the record does not say."""
        last = self.end or (self.evaluations[-1] if self.evaluations else {})
        return int(last["n"]) if "n" in last else None

    def curve(self) -> list[Point]:
        """The validation curve; evaluations whose figures are missing or not finite are left out."""
        points = []
        for event in self.evaluations:
            accuracy, kl, spent = number(event["accuracy"]), number(event["kl"]), event["rollouts"]
            if accuracy is not None and kl is not None:
                points.append(Point(event["round"], spent.get("train", 0) + spent.get("fast", 0), accuracy, kl))
        return points


def load_run(run_dir: Path) -> RunView:
    """Read a run folder. Raises RecordError when it is no run folder or is damaged before its last line."""
    path = run_dir / "config.json"
    if not path.is_file():
        raise RecordError(f"{run_dir} is not a run folder (it has no config.json): pass a folder that a run wrote.")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as exc:
        raise RecordError(f"{path} is not JSON ({exc}): restore it, or leave this run out.") from exc
    missing = [key for key in _CONFIG_FIELDS if not isinstance(config, dict) or key not in config]
    if missing:
        raise RecordError(f"{path} lacks {', '.join(missing)}: it was not written by this program; leave it out.")
    if config["arm"] not in ARMS:
        raise RecordError(f"{path}: arm {config['arm']!r} is unknown (known: {', '.join(ARMS)}); leave this run out.")
    events = valid_lines(_events(run_dir / "events.jsonl"))
    rounds, end = tuple(_of(events, "round")), (_of(events, "end") or [None])[-1]
    cells = [event["cells"] for event in _of(events, "cells")]
    return RunView(
        path=run_dir,
        config=config,
        prompts=_lineage(_of(events, "prompt"), _population(rounds, end)),
        steps=tuple(_of(events, "step")),
        rounds=rounds,
        evaluations=tuple(e for e in _of(events, "evaluation") if e.get("split", "validation") == "validation"),
        cells=cells[-1] if cells else None,
        end=end,
        outcome=outcome_of(events),
    )


def mean_curve(runs: Iterable[RunView]) -> list[Point]:
    """Mean over seeds, at the rounds that every run has evaluated: a seed that stopped early shortens the
    mean line and never bends it."""
    curves = [{point.round: point for point in run.curve()} for run in runs]
    curves = [curve for curve in curves if curve]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    return [
        Point(at, *(sum(getattr(c[at], name) for c in curves) / len(curves) for name in ("learning", "accuracy", "kl")))
        for at in shared
    ]


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value: object) -> float | None:
    """A finite number, or None: diverged runs write NaN, which JSON readers elsewhere refuse."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _of(events: list[Event], kind: str) -> list[Any]:
    return [event for event in events if event["kind"] == kind]


def _events(path: Path) -> list[Event]:
    """All events in file order. A line that is not JSON is a torn write, which can stand only where a process died: at
    the end of the file, or right before a `resume`."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    parsed = [(at, _parse(line)) for at, line in enumerate(lines, 1) if line.strip()]
    events = []
    for index, (at, event) in enumerate(parsed):
        if event is None:
            after = parsed[index + 1][1] if index + 1 < len(parsed) else {"kind": "resume"}
            if after is None or after["kind"] != "resume":
                raise RecordError(f"{path}:{at} is not an event: the file is damaged; restore it or leave it out.")
            continue
        missing = [key for key in _EVENT_FIELDS.get(event["kind"], ()) if key not in event]
        if missing:
            raise RecordError(
                f"{path}:{at}: a {event['kind']!r} event lacks {', '.join(missing)}; restore the file or leave it out."
            )
        events.append(event)
    return events


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def _population(rounds: Sequence[Event], end: Event | None) -> list[str]:
    """Ids of the last population, best first."""
    if end and end.get("prompts"):
        return [prompt_id(text) for text in end["prompts"]]
    return list(rounds[-1]["population"]) if rounds else []


def _lineage(events: list[Event], population: list[str]) -> tuple[PromptView, ...]:
    unique = list(dict.fromkeys(population))
    first: dict[str, Event] = {}
    latest: dict[str, float | None] = {}
    for event in events:
        first.setdefault(event["id"], event)
        latest[event["id"]] = number(event["score"])
    prompts: dict[str, PromptView] = {}
    for key, event in first.items():
        prompts[key] = PromptView(
            id=key,
            text=str(event["text"]),
            parents=tuple(dict.fromkeys(parent for parent in event["parents"] if parent in prompts)),
            origin=str(event["origin"]),
            born=event["round"],
            score=latest[key],
            feedback=str((event.get("reflection") or {}).get("feedback") or ""),
            rank=unique.index(key) + 1 if key in unique else None,
        )
    return tuple(prompts.values())
