"""Checkpoints: everything that the next round needs, in one folder that is written atomically."""

from __future__ import annotations

import json
from pathlib import Path

from fst.method.balance import Met, Seen
from fst.method.learner import Learner
from fst.method.slow.reuse import spare_from
from fst.runs.records import RunFolder
from fst.types import Budget, Population, prompt_from_dict

_SPARE = "spare.json"


def save(learner: Learner) -> None:
    """Write the learner's state after the round just completed."""
    books, population = learner.books, learner.population
    state = {
        "cycle": learner.cycle,
        "round": learner.round,
        "calls": learner.draws,
        "seconds": books.seconds,
        "budget": books.budget.as_dict(),
        "population": {
            "prompts": [p.as_dict() for p in population.prompts],
            "scores": population.scores,
            "weights": population.weights,
        },
        "balance": {
            "seen": [vars(one) for one in learner.seen],
            "met": {name: vars(one) for name, one in learner.met.items()},
        },
    }
    with books.folder.checkpoint(learner.round - 1) as folder:
        (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        if learner.spare.cells:
            (folder / _SPARE).write_text(json.dumps(learner.spare.as_list()), encoding="utf-8")
        if learner.slow_weights:
            learner.slow_weights.save(folder)


def restore(learner: Learner, run: Path) -> None:
    """Restore a run's last completed round, or its beginning if there is none. Later record lines become void."""
    record, last = learner.books.folder, RunFolder(run).last_checkpoint()
    if last is None:
        record.void_from(-1)
        return
    number, path = last
    record.void_from(number + 1)
    record.drop_old()
    take(learner, path)


def take(learner: Learner, path: Path) -> None:
    """Load the state in a checkpoint folder into the learner."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    learner.cycle, learner.round, learner.draws = state["cycle"], state["round"], state["calls"]
    books, saved = learner.books, state["population"]
    books.seconds, books.budget = state["seconds"], Budget(**state["budget"])
    prompts = tuple(map(prompt_from_dict, saved["prompts"]))
    learner.population = Population(prompts, saved["scores"], saved["weights"])
    if (path / _SPARE).exists():
        learner.spare = spare_from(json.loads((path / _SPARE).read_text(encoding="utf-8")))
    learner.seen = [Seen(**one) for one in state["balance"]["seen"]]
    learner.met = {name: Met(**one) for name, one in state["balance"]["met"].items()}
    if learner.slow_weights:
        learner.slow_weights.load(path)
