"""Checkpoints: everything the next round needs, in one atomic folder, and going back to it."""

from __future__ import annotations

import json
from pathlib import Path

from fst.method.learner import Learner
from fst.runs.records import RunFolder
from fst.types import Budget, Population, prompt_from_dict


def save(learner: Learner) -> None:
    """Write the state after the round just completed."""
    state = {
        "cycle": learner.cycle,
        "round": learner.round,
        "calls": learner.calls,
        "seconds": learner.seconds,
        "budget": learner.budget.as_dict(),
        "population": {
            "prompts": [p.as_dict() for p in learner.population.prompts],
            "scores": learner.population.scores,
            "weights": learner.population.weights,
        },
    }
    with learner.folder.checkpoint(learner.round - 1) as folder:
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        if learner.slow_weights:
            learner.slow_weights.save(folder)


def restore(learner: Learner, run: Path) -> bool:
    """Go back to the last completed round of a run, if there is one; the account's lines after it become void."""
    last = RunFolder(run).last_checkpoint()
    if last is None:
        learner.folder.void_from(-1)
        return False
    number, path = last
    learner.folder.void_from(number + 1)
    take(learner, path)
    return True


def take(learner: Learner, path: Path) -> None:
    """Take up the state in a checkpoint folder."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    learner.cycle, learner.round, learner.calls = state["cycle"], state["round"], state["calls"]
    learner.seconds, learner.budget = state["seconds"], Budget(**state["budget"])
    saved = state["population"]
    prompts = tuple(map(prompt_from_dict, saved["prompts"]))
    learner.population = Population(prompts, saved["scores"], saved["weights"])
    if learner.slow_weights:
        learner.slow_weights.load(path)
