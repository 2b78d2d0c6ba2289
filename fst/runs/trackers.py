"""Trackers: what a run does, shown in TensorBoard, MLflow, Weights & Biases or Trackio beside its own records.

Figures are taken from the events that go on the record, and are shown by accelerate's tracker of each library. Their
step is the number of learning rollouts spent so far, which grows in every arm and compares them at equal cost; the
optimizer's step is the figure `train/step`. Names:

    train/*       an RL step: reward, loss, grad_norm, groups, kept_groups (with signal), reused, optimism, seconds
    trl/*         TRL's own figures of the step: entropy, kl, clip ratios, lengths
    fast/*        a fast round: reward of its best prompt, anchors, given_up, seconds
    validation/*, test/*, cells/*     evaluations: accuracy, stderr, kl (nats a token)
    rollouts/*, reward/*, tokens/*, cut/*     by purpose (train, fast, eval): rollouts spent; means over those since
                  the figure before: reward, tokens an answer, share cut off
    prompts       a table a fast round
    gate/*        a decision of the gate (fst/release/candidate.py), in a tracked run of its own

Invariants (tests/runs/test_trackers.py): K1 where nothing is asked for, nothing is imported or written; K2 figures
arrive in each library under these names, at the rollouts spent; K3 prompts arrive as a table; K4 a tracker that fails
is left out with one warning, and hinders neither the run nor the others; K5 a run that was cut off goes on in the
tracked run that it began; K6 a run learns the same with trackers and without.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fst.config import TrackParams
from fst.extras import require
from fst.files import write_atomic
from fst.types import Purpose, Rollout

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

log = logging.getLogger("fst")

TRACKED = "tracked.json"  # in the run folder: what the run is called in the trackers
COLUMNS = ("round", "place", "score", "text", "origin", "feedback", "id", "parents")
_GROUPS = {"step": "train", "evaluation": "validation", "end": "test", "cells": "cells"}  # of figures, by event
_POSITIONS = ("round", "cycle", "n")  # numbers of an event that are no figures

Row = Sequence[Any]


class Trackers:
    """The trackers that a run is shown in; none by default. No method raises for what a tracker does."""

    def __init__(self, trackers: Sequence[GeneralTracker] = ()) -> None:
        self._trackers = list(trackers)
        self._counted: dict[Purpose, list[Rollout]] = {}
        self._prompts: list[Mapping[str, Any]] = []

    @classmethod
    def open(cls, params: TrackParams, folder: Path, config: Mapping[str, Any], spent: int = 0) -> Trackers:
        """Begin to show the run in `folder`, made as `config` says, or go on with it at `spent` learning rollouts."""
        opened = cls()
        if params.to:
            facts = _Facts(params.project, folder, spent)
            for name in params.to:
                _guarded(name, opened._begin, facts, name, config)
            facts.save()
        return opened

    def count(self, purpose: Purpose, rollouts: Sequence[Rollout]) -> None:
        """Take rollouts into the means of their purpose."""
        if self._trackers and rollouts:
            self._counted.setdefault(purpose, []).extend(rollouts)

    def event(self, kind: str, values: Mapping[str, Any], spent: int) -> None:
        """Show an event of the record, at `spent` learning rollouts."""
        if not self._trackers:
            return
        if kind == "prompt":
            self._prompts.append(values)
        elif kind == "round":
            fast = {f"fast/{name}": value for name, value in values.items() if name not in (*_POSITIONS, "step")}
            self.show({**(fast if values["channel"] == "fast" else {}), **self._by_purpose(values["rollouts"])}, spent)
            if self._prompts:
                self.table("prompts", COLUMNS, self._rows(values), spent)
        elif kind in _GROUPS:
            found = values["cells"] if kind == "cells" else values
            figures = {f"{_GROUPS[kind]}/{name}": found[name] for name in found if name not in _POSITIONS}
            self.show({**figures, **self._by_purpose(values.get("rollouts", {}))}, spent)

    def show(self, figures: Mapping[str, Any], spent: int) -> None:
        """Show figures; values that are no finite numbers are left out."""
        numbers = {name: value for name, value in figures.items() if _is_figure(value)}
        if numbers:
            self._each(lambda tracker: tracker.log(numbers, step=spent))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Row], spent: int) -> None:
        """Show a table as the library has them."""
        self._each(lambda tracker: _TABLES.get(tracker.name, _as_text)(tracker, name, columns, rows, spent))

    def close(self) -> None:
        """Bring everything to where it is kept. A second call does nothing."""
        self._each(lambda tracker: tracker.finish())
        self._trackers.clear()

    def _begin(self, facts: _Facts, name: str, config: Mapping[str, Any]) -> None:
        self._trackers.append(facts.started(name, config))

    def _by_purpose(self, rollouts: Mapping[str, int]) -> dict[str, float]:
        figures: dict[str, float] = {f"rollouts/{purpose}": n for purpose, n in rollouts.items()}
        for purpose, counted in self._counted.items():
            figures[f"reward/{purpose}"] = fmean(rollout.reward for rollout in counted)
            figures[f"tokens/{purpose}"] = fmean(len(rollout.tokens) for rollout in counted)
            figures[f"cut/{purpose}"] = fmean(rollout.cut for rollout in counted)
        self._counted.clear()
        return figures

    def _rows(self, found: Mapping[str, Any]) -> list[Row]:
        """The prompts that a round met, those of its population first."""
        places = {name: place + 1 for place, name in reversed(list(enumerate(found["population"])))}
        met, self._prompts = self._prompts, []
        facts = [
            {**one, "place": places.get(one["id"]), "feedback": (one.get("reflection") or {}).get("feedback", "")}
            for one in met
        ]
        ordered = sorted(facts, key=lambda one: one["place"] or math.inf)
        return [[_cell(one[name]) for name in COLUMNS] for one in ordered]

    def _each(self, call: Callable[[GeneralTracker], None]) -> None:
        for tracker in tuple(self._trackers):
            if not _guarded(tracker.name, call, tracker):
                self._trackers.remove(tracker)


def _guarded(name: str, call: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a call to a library went well. What goes wrong in it is no reason to end a run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries have to say of their own future
            call(*arguments)
    except Exception as exc:
        log.warning("track.to: %s failed and is left out from here on: %s", name, exc)
        return False
    return True


class _Facts:
    """What a tracked run is called, kept in its folder so that it is found again."""

    def __init__(self, project: str, folder: Path, spent: int) -> None:
        self.project, self.folder, self.spent = project, folder, spent
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / TRACKED
        fresh = {"id": f"{folder.name}-{uuid.uuid4().hex[:8]}"}
        self.ids: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else fresh

    def started(self, name: str, config: Mapping[str, Any]) -> GeneralTracker:
        """A tracker of this run, begun or taken up again."""
        require(name)
        tracker = self._make(name)
        tracker.start()
        if name not in self.ids:
            tracker.store_init_configuration(_flat(config))
        self.ids[name] = tracker.tracker.info.run_id if name == "mlflow" else self.ids["id"]
        return tracker

    def _make(self, name: str) -> GeneralTracker:
        from accelerate import PartialState, tracking  # here: it takes seconds to import

        PartialState()  # without it accelerate's loggers raise, in a process that trains nothing
        run: dict[str, Any] = {"name": self.folder.name}
        if name == "tensorboard":  # what a killed process showed from here on is repeated
            return tracking.TensorBoardTracker(name, self.folder, purge_step=self.spent + 1)
        if name == "mlflow":
            return tracking.MLflowTracker(self.project, run_id=self.ids.get(name), run_name=self.folder.name)
        if name == "trackio":
            return tracking.TrackioTracker(self.project, resume="allow", **run)
        run |= {"resume": "allow"} if name in self.ids else {}
        kept = {"dir": str(self.folder), "settings": {"console": "off"}}  # the console is not the run's alone
        return tracking.WandBTracker(self.project, id=self.ids["id"], **run, **kept)

    def save(self) -> None:
        write_atomic(self.folder / TRACKED, json.dumps(self.ids, indent=1) + "\n")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted names, as trackers take them: what is no number, text or truth value as JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list | tuple) else value


# Tables, by library. What accelerate has no method for is asked of the library itself.
def _as_text(tracker: GeneralTracker, name: str, columns: Sequence[str], rows: Sequence[Row], spent: int) -> None:
    lines = [columns, ["---"] * len(columns), *([_plain(value) for value in row] for row in rows)]
    tracker.log({name: "\n".join(f"| {' | '.join(line)} |" for line in lines)}, step=spent)


def _plain(value: Any) -> str:
    """A value as Markdown has it in a table's cell."""
    text = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    return "<br>".join(text.replace("|", "\\|").splitlines())


def _wandb(tracker: Any, name: str, columns: Sequence[str], rows: Sequence[Row], spent: int) -> None:
    tracker.log_table(name, list(columns), [list(row) for row in rows], step=spent)


def _trackio(tracker: GeneralTracker, name: str, columns: Sequence[str], rows: Sequence[Row], spent: int) -> None:
    import pandas
    import trackio

    tracker.log({name: trackio.Table(dataframe=pandas.DataFrame(rows, columns=list(columns)))}, step=spent)


def _mlflow(tracker: GeneralTracker, name: str, columns: Sequence[str], rows: Sequence[Row], spent: int) -> None:
    import mlflow

    values = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
    mlflow.log_table(values, f"{name}/{spent:08d}.json")


_TABLES: dict[str, Callable[[Any, str, Sequence[str], Sequence[Row], int], None]] = {
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
