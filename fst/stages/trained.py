"""What training leaves for the stages after it: the adapter, and the population with its ancestry.

adapter/         adapter_config.json, adapter_model.safetensors; absent when the weights are still the base's
prompts.json     the population, best first, and the ancestors of its members
training.json    what was done: arm, seed, cycles, steps, rollouts, hash of the adapter
"""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from fst.files import document, replacing, write_atomic
from fst.models.adapter import CONFIG, WEIGHTS
from fst.runs.records import RunFolder
from fst.runs.view import PromptView, RunView, load_run
from fst.store.bundle import Bundle
from fst.types import Prompt, prompt_id


def export_run(run: Path, start: Bundle | None, out: Path, curve: Path) -> None:
    """Write the outputs of a finished run into the folder `out`, in one step, and its learning curve into a CSV file. A
    run that had no weights of its own to train (arm gepa) passes on those it started from."""
    view = load_run(run)
    end = view.end
    last = RunFolder(run).last_checkpoint()
    assert end is not None  # the stage runs the job to its end before it exports
    assert last is not None  # a run that ended has completed rounds
    adapter = last[1] if view.arm != "gepa" else start.adapter if start else None
    curve.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(curve, learning_curve(view))
    with replacing(out) as folder:
        if adapter:
            (folder / "adapter").mkdir()
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(adapter / name, folder / "adapter" / name)
        (folder / "prompts.json").write_text(document(population(view, end["prompts"], start)), encoding="utf-8")
        (folder / "training.json").write_text(document(training(view)), encoding="utf-8")


def population(view: RunView, texts: list[str], start: Bundle | None) -> dict[str, Any]:
    """The population as it ended, best first, without padding; and every ancestor, those of earlier runs included."""
    met = {prompt.id: _lines(prompt) for prompt in view.prompts}
    for domain in start.prompts().values() if start else ():
        for prompt in (*domain["ancestry"], *domain["prompts"]):
            met.setdefault(prompt["id"], {key: prompt[key] for key in ("id", "text", "parents", "origin", "born")})
    scores = {prompt.id: prompt.score for prompt in view.prompts}
    members = list(dict.fromkeys(map(prompt_id, texts)))
    known = {prompt_id(text): met.get(prompt_id(text), Prompt(text).as_dict()) for text in texts}
    ancestry: dict[str, Any] = {}
    queue = [parent for key in members for parent in known[key]["parents"]]
    while queue:
        key = queue.pop(0)
        if key in met and key not in ancestry and key not in members:
            ancestry[key] = met[key]
            queue += met[key]["parents"]
    return {
        "prompts": [{**known[key], "score": scores.get(key)} for key in members],
        "ancestry": [ancestry[key] for key in sorted(ancestry, key=lambda k: (ancestry[k]["born"], k))],
    }


def training(view: RunView) -> dict[str, Any]:
    """What was done, without times."""
    end = view.end or {}
    return {
        "arm": view.arm,
        "seed": view.seed,
        "cycles": 1 + max((event["cycle"] for event in view.rounds), default=-1),
        "steps": view.rounds[-1]["step"] if view.rounds else 0,
        "rollouts": end["rollouts"],
        "adapter_sha256": end["adapter_sha256"],
        "cells": view.cells,
    }


def learning_curve(view: RunView) -> str:
    """CSV: rollouts learned from, validation accuracy and KL after each round."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("rollouts", "accuracy", "kl"))
    writer.writerows((int(p.learning), round(p.accuracy, 6), round(p.kl, 6)) for p in view.curve())
    return text.getvalue()


def _lines(prompt: PromptView) -> dict[str, Any]:
    origin = {"id": prompt.id, "text": prompt.text, "parents": list(prompt.parents)}
    return {**origin, "origin": prompt.origin, "born": prompt.born}
