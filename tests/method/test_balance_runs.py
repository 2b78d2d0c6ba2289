"""A run that stands still looks for signal. B1 by the means that are named and no others; B2 from the round after it
was seen; B3 its decisions are on the record, and turns are not; B4 cut off and resumed, it decides alike."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import pytest

from fst.config import params_from_dict
from fst.data.types import Problem, Score
from fst.method.learner import Learner
from fst.method.loop import rounds
from fst.method.run.runner import Job, prepare
from fst.runs.progress import Progress
from fst.runs.records import events_of
from fst.types import Purpose

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "prepare": {"train": 16, "validation": 4, "test": 4},
    "slow": {"problems_per_step": 4, "group_size": 4, "lora_rank": 4, "warmup_steps": 0},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16},
    "reflector": {"proposals": 4, "max_new_tokens": 4},
    "evaluate": {"samples": 1, "every": 9},
}


def learner(folder: Path, model: Path, **loop: Any) -> Learner:
    """Of a run whose problems all fail but every eighth, which is right now and then."""
    own = {"model": {"base": str(model), "max_new_tokens": 4}, "loop": {"cycles": 3, "steps_per_cycle": 2, **loop}}
    job = Job("fst", "lab/reverse", 0, folder, params_from_dict({**SMALL, **own}))
    made = prepare(job, Progress(1, 1, job.arm, job.domain, quiet=True), resume=True)
    mixed = {problem.id for problem in made.schedule.problems[::8]}

    def verify(problem: Problem, answer: str) -> Score:
        return Score(float(problem.id in mixed and zlib.crc32(answer.encode()) % 2), "")

    made.switch(dataclasses.replace(made.domain, verify=verify))
    return made


def decisions(folder: Path) -> list[dict[str, Any]]:
    return [event for event in events_of(folder) if event["kind"] == "balance"]


def finish(made: Learner) -> list[Purpose]:
    done = list(rounds(made))
    made.books.close()
    return done


def test_b1_the_means_that_are_named(tmp_path: Path, tiny_model_dir: Path) -> None:
    made = learner(tmp_path, tiny_model_dir, signal=["prompts", "temperature"])
    steps = rounds(made)
    next(steps)
    assert made.temperature == 1
    assert not decisions(tmp_path), "the turns of the paper are not worth a line"
    next(steps)
    next(steps)
    assert made.population.prompts[-1].id == made.seed_prompt.id
    assert made.temperature == made.params.loop.signal_temperature
    assert list(made.batches()) == made.schedule.batches(made.step)
    made.books.close()


def test_b2_problems_with_mixed_rewards_come_again(tmp_path: Path, tiny_model_dir: Path) -> None:
    made = learner(tmp_path, tiny_model_dir, signal=["problems"])
    steps = rounds(made)
    for _ in range(3):
        next(steps)
    ever = {name for name, one in made.met.items() if one.mixed}
    assert ever
    assert ever <= {problem.id for problem in made.schedule.problems[::8]}
    again = {problem.id for batch in made.batches() for problem in batch}
    assert ever <= again
    made.books.close()


def test_b2_problems_that_fail_alike_come_to_the_fast_round(tmp_path: Path, tiny_model_dir: Path) -> None:
    made = learner(tmp_path, tiny_model_dir, signal=["failures"])
    steps = rounds(made)
    next(steps)
    next(steps)
    failed = {name for name, one in made.met.items() if one.mean == 0}
    assert len(failed) > 4, "of eight problems one may be solved"
    made.decide(("fast", "train"))
    anchors, upcoming = made.anchors(), made.schedule.anchors(made.cycle)
    assert anchors[:2] == upcoming[:2]
    assert {problem.id for problem in anchors[2:]} <= failed
    assert not failed & {problem.id for problem in upcoming}, "they would not have been anchors"
    made.books.close()


def test_b3_b4_decisions_are_on_the_record_and_resumed(tmp_path: Path, tiny_model_dir: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options: dict[str, Any] = {"cycles": 2, "balance": "auto", "signal": ["problems", "temperature"]}
    made = finish(learner(whole, tiny_model_dir, **options))
    stopped = learner(cut, tiny_model_dir, **options)
    steps = rounds(stopped)
    assert [next(steps), next(steps)] == made[:2]
    stopped.books.close()
    assert finish(learner(cut, tiny_model_dir, **options)) == made[2:]
    assert [{**event, "at": 0, "time": 0} for event in decisions(cut)] == [
        {**event, "at": 0, "time": 0} for event in decisions(whole)
    ]
    assert [event["next"] for event in decisions(whole)] == made
    searched = [event["search"] for event in decisions(whole)]
    assert searched[:3] == [[], [], ["problems", "temperature"]]
    ends = [next(e for e in events_of(folder) if e["kind"] == "end") for folder in (whole, cut)]
    assert ends[0]["adapter_sha256"] == ends[1]["adapter_sha256"]
