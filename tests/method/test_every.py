"""How often a run is evaluated. E1 before the first round, after every `evaluate.every`-th and after the last; E2 a run
learns the same however often it is evaluated; E3 what is left out is not spent; E4 a report and the stage's curve are
made of what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from fst.config import params_from_dict
from fst.method.learner import Learner
from fst.method.loop import rounds
from fst.method.run.runner import Job, prepare
from fst.report.build import build_report
from fst.runs.progress import Progress
from fst.runs.view import RunView, load_run
from fst.stages.trained import learning_curve
from support.slow_toys import verify

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "prepare": {"train": 16, "validation": 4, "test": 4},
    "slow": {"problems_per_step": 2, "group_size": 4, "lora_rank": 4, "warmup_steps": 0},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16},
    "reflector": {"proposals": 4, "max_new_tokens": 4},
    "loop": {"cycles": 2, "steps_per_cycle": 1},
}


def run(folder: Path, model: Path, every: int) -> RunView:
    own = {"model": {"base": str(model), "max_new_tokens": 4}, "evaluate": {"samples": 1, "every": every}}
    job = Job("fst", "lab/reverse", 0, folder / f"every-{every}", params_from_dict({**SMALL, **own}))
    learner: Learner = prepare(job, Progress(1, 1, job.arm, job.domain, quiet=True))
    learner.switch(dataclasses.replace(learner.domain, verify=verify))  # an untrained model is right now and then
    for _ in rounds(learner):
        pass
    learner.books.close()
    return load_run(job.folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[int, RunView]:
    folder = tmp_path_factory.mktemp("every")
    return {every: run(folder, tiny_model_dir, every) for every in (1, 2, 3)}


def test_e1_evaluations_follow_their_rounds(runs: dict[int, RunView]) -> None:
    assert {every: [e["round"] for e in view.evaluations] for every, view in runs.items()} == {
        1: [-1, 0, 1, 2, 3],
        2: [-1, 1, 3],
        3: [-1, 2, 3],
    }


def test_e2_a_run_learns_the_same(runs: dict[int, RunView]) -> None:
    ends = [view.end or {} for view in runs.values()]
    for key in ("adapter_sha256", "prompts", "accuracy", "kl"):
        assert ends[0][key] == ends[1][key] == ends[2][key], key
    assert ends[0]["kl"] > 0, "nothing was learned, so nothing was compared"
    by_round = [{e["round"]: e["accuracy"] for e in view.evaluations} for view in runs.values()]
    assert by_round[1].items() <= by_round[0].items()
    assert by_round[2].items() <= by_round[0].items()


def test_e3_what_is_left_out_is_not_spent(runs: dict[int, RunView]) -> None:
    spent = [view.result.rollouts for view in runs.values()]
    assert [s["eval"] - spent[0]["eval"] for s in spent] == [0, -2 * 4, -2 * 4]
    assert {(s["train"], s["fast"]) for s in spent} == {(16, spent[0]["fast"])}


def test_e4_a_report_is_made_of_what_was_measured(runs: dict[int, RunView], tmp_path: Path) -> None:
    build_report([runs[3].path], tmp_path, "sparse")
    (arms,) = json.loads((tmp_path / "summary.json").read_text())["domains"].values()
    assert arms["arms"]["fst"]["accuracy"] == (runs[3].end or {})["accuracy"]
    assert [point.round for point in runs[3].curve()] == [-1, 2, 3]
    assert len(learning_curve(runs[3]).splitlines()) == 1 + 3
