"""Runs that are killed (SIGKILL) and resumed end exactly as one that was never cut off.

Z1 same adapter, prompts, accuracy and rollouts; Z2 the account in force is the same, line by line, times aside;
Z3 its rollouts are the ones that the budget counted; Z4 a report can be made of it; Z5 a run that ended is left
as it is; Z6 a run is not started over by accident.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fst.cli import main
from fst.lines import read_lines
from fst.method.run.runner import has_ended
from fst.report.build import build_report
from fst.runs.records import valid_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 400.0
ATTEMPTS = 5  # at a kill
SMALL = (
    *("prepare.train=64", "prepare.validation=6", "prepare.test=6", "model.threads=1", "model.max_new_tokens=4"),
    *("slow.problems_per_step=2", "slow.group_size=4", "slow.learning_rate=0.01", "slow.warmup_steps=1"),
    *("fast.prompts=2", "fast.anchors=4", "fast.minibatch=2", "fast.budget=32", "fast.patience=9"),
    *(
        "loop.cycles=2",
        "loop.steps_per_cycle=2",
        "loop.reuse=true",
        "reflector.proposals=8",
        "reflector.max_new_tokens=6",
    ),
    *("evaluate.samples=1", "evaluate.kl_problems=4"),
)

Line = dict[str, Any]
Sight = Callable[[list[Line], list[Line]], bool]


class Lab:
    """Starts runs of one seed on the tiny model; its problems reward an untrained model now and then."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.runs, self.model, self.data = folder / "runs", model, folder / "problems.jsonl"
        rng = random.Random(0)
        verifier = {"name": "regex", "pattern": r"[a-l]", "search": True}
        with self.data.open("w", encoding="utf-8") as file:
            for i in range(80):
                question = "digits: " + " ".join(str(rng.randrange(10)) for _ in range(6))
                line = {"id": f"p{i}", "question": question, "answer": str(i % 10), "verifier": verifier}
                file.write(json.dumps(line) + "\n")

    def command(self, name: str, *more: str) -> list[str]:
        """The arguments of `fst`."""
        command = ["train", "--run", name, "--runs", str(self.runs), "--quiet"]
        command += ["--model", str(self.model), "--data", str(self.data), "--seed", "3"]
        return command + [option for setting in SMALL for option in ("--set", setting)] + list(more)

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fst.cli", *self.command(name, *more)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, name: str, *more: str) -> tuple[int, str]:
        process = self.start(name, *more)
        _, errors = process.communicate(timeout=PATIENCE_S)
        return process.returncode, errors

    def kill_at(self, name: str, sight: Sight, delay: float) -> None:
        """Start or resume a run and kill it `delay` seconds after the lines written since show `sight`. On a busy
        machine the run may be at its end by then: it is put back as it was, and killed anew."""
        folder, kept = self.runs / name, self.runs / f"{name}.kept"
        if folder.exists():
            shutil.copytree(folder, kept)
        for _ in range(ATTEMPTS):
            if self._killed(name, sight, delay):
                break
            shutil.rmtree(folder)
            if kept.exists():
                shutil.copytree(kept, folder)
        else:
            pytest.fail(f"{name} came to its end {ATTEMPTS} times before it could be killed")
        shutil.rmtree(kept, ignore_errors=True)

    def _killed(self, name: str, sight: Sight, delay: float) -> bool:
        """Whether the kill came before the end."""
        files = [self.runs / name / file for file in ("events.jsonl", "rollouts.jsonl")]
        before = [len(list(read_lines(file))) for file in files]
        process = self.start(name, "--resume")
        until = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < until:
            fresh = [list(read_lines(file))[count:] for file, count in zip(files, before, strict=True)]
            if sight(*fresh):
                time.sleep(delay)
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        return not has_ended(self.runs / name)

    def account(self, name: str, file: str) -> list[Line]:
        """What is in force of an account, without the marks of resumption."""
        lines = valid_lines(read_lines(self.runs / name / file))
        return [untimed(line) for line in lines if line.get("kind") != "resume"]


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key != "seconds"}
    return value


def event(kind: str, **values: Any) -> Sight:
    return lambda events, _: any(e["kind"] == kind and values.items() <= e.items() for e in events)


def rollouts(channel: str, count: int) -> Sight:
    return lambda _, lines: sum(line.get("channel") == channel for line in lines) >= count


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("resume"), tiny_model_dir)
    code, errors = lab.finish("whole")
    assert code == 0, errors
    return lab


def test_z0_the_uninterrupted_run_learns_in_both_kinds_of_round(lab: Lab) -> None:
    """Otherwise the comparisons below would hold for a run in which nothing happens."""
    events = lab.account("whole", "events.jsonl")
    assert [e["channel"] for e in events if e["kind"] == "round"] == ["fast", "slow", "fast", "slow"]
    assert sum(e["kept_groups"] for e in events if e["kind"] == "step") > 0
    assert any(e["origin"] == "reflection" and e["score"] is not None for e in events if e["kind"] == "prompt")
    assert events[-1]["prompts"][0] != "solve the task"
    assert events[-1]["kl"] > 0
    counted = Counter(line["channel"] for line in lab.account("whole", "rollouts.jsonl"))
    assert counted == events[-1]["rollouts"]
    reused = [e["reused"] for e in events if e["kind"] == "step"]
    assert min(reused) > 0
    assert counted["train"] + sum(reused) == 2 * 2 * 2 * 4, "cycles, steps, problems, rollouts of a problem"
    checkpoints = lab.runs / "whole" / "checkpoints"
    assert [path.parent.name for path in checkpoints.glob("*/spare.json")] == ["round-0002"], "after the fast round"


@pytest.mark.parametrize(
    ("name", "sights"),
    [
        ("in-the-first-fast-round", [rollouts("fast", 4)]),
        ("in-the-first-slow-round", [event("step", step=1)]),
        ("at-a-prompt-and-in-the-second-slow-round", [event("prompt"), event("step", step=3)]),
        ("after-a-fast-round-and-in-the-last-evaluation", [event("round", round=2), event("evaluation", round=3)]),
    ],
)
def test_z1_to_z4_a_killed_and_resumed_run_ends_as_the_whole_one(
    lab: Lab, tmp_path: Path, name: str, sights: Sequence[Sight]
) -> None:
    delays = random.Random(name)
    for sight in sights:
        lab.kill_at(name, sight, delays.choice([0.0, delays.uniform(0.0, 0.1)]))
    code, errors = lab.finish(name, "--resume")
    assert code == 0, errors

    events, whole = lab.account(name, "events.jsonl"), lab.account("whole", "events.jsonl")
    marks = [line for line in read_lines(lab.runs / name / "events.jsonl") if line["kind"] == "resume"]
    assert len(marks) == len(sights)
    for key in ("adapter_sha256", "prompts", "accuracy", "kl", "rollouts"):
        assert events[-1][key] == whole[-1][key], key
    assert events == whole
    assert lab.account(name, "rollouts.jsonl") == lab.account("whole", "rollouts.jsonl")
    kept = sorted(path.name for path in (lab.runs / name / "checkpoints").iterdir())
    assert kept == ["round-0002", "round-0003"]

    build_report([lab.runs / name], tmp_path / "report", "resumed")
    build_report([lab.runs / "whole"], tmp_path / "whole", "resumed")
    resumed, straight = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("report", "whole"))
    (arms,), (expected,) = (list(s["domains"].values()) for s in (resumed, straight))
    assert arms["arms"]["fst"]["rollouts"] == expected["arms"]["fst"]["rollouts"]
    assert arms["arms"]["fst"]["accuracy"] == expected["arms"]["fst"]["accuracy"]


def test_z5_resuming_a_run_that_ended_changes_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    files = [lab.runs / "whole" / name for name in ("config.json", "events.jsonl", "rollouts.jsonl")]
    before = [file.read_bytes() for file in files]
    code, errors = main(lab.command("whole", "--resume")), capsys.readouterr().err
    assert (code, errors) == (0, "")
    assert [file.read_bytes() for file in files] == before


def test_z6_starting_over_is_refused_and_names_the_remedy(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    before = (lab.runs / "whole" / "events.jsonl").read_bytes()
    code, errors = main(lab.command("whole")), capsys.readouterr().err
    assert code == 2
    assert "holds a run already; go on with it by --resume" in errors
    assert "Traceback" not in errors
    assert (lab.runs / "whole" / "events.jsonl").read_bytes() == before


def test_z6_resuming_a_run_that_ended_under_other_parameters_is_refused(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = main(lab.command("whole", "--resume", "--set", "loop.cycles=3")), capsys.readouterr().err
    assert code == 2
    assert "was made with another 'params'" in errors
