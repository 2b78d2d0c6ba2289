"""Runs in trackers. Invariants K1 to K6 are those of fst/runs/trackers.py; K7 a decision of the gate is shown; K8 what
`fst reproduce` makes again is not; K9 a run whose tracker is not installed does not begin.

The libraries are the real ones, without a network: TensorBoard's files, MLflow's database, Weights & Biases offline,
Trackio's database. What one of them holds is read back with the library itself, or from the file that it wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fst.config import TrackParams, params_from_dict
from fst.errors import MissingDependency
from fst.extras import require
from fst.method.run.runner import Job, run_job, run_rounds, summary_of
from fst.release.candidate import Candidate
from fst.release.recipe import Recipe
from fst.runs.records import events_of
from fst.runs.trackers import COLUMNS, TRACKED, Trackers
from fst.stages.workspace import Workspace
from fst.types import Purpose, Rollout
from support.lab_project import wait_until
from support.release_toys import PARAMS, ToyProject
from support.run_toys import GOOD, SEED, end, evaluation, prompt, round_, spent, step

CONFIG = {"arm": "fst", "params": {"slow": {"learning_rate": 0.5, "trl": {}}, "track": ["a"]}, "start": None}
CONFIGURED = {"arm": "fst", "params.slow.learning_rate": 0.5, "params.slow.trl": "{}", "params.track": '["a"]'}
FIGURES: dict[str, list[tuple[int, float]]] = {  # of the run below: (rollouts spent, value)
    "validation/accuracy": [(0, 0.25)],
    "reward/fast": [(8, 0.75)],
    "tokens/fast": [(8, 2.0)],
    "cut/fast": [(8, 0.5)],
    "fast/reward": [(8, 0.5)],
    "rollouts/train": [(0, 0), (8, 0), (24, 16)],
    "rollouts/fast": [(0, 0), (8, 8), (24, 8)],
    "train/reward": [(16, 0.375), (24, 0.625)],
    "train/step": [(16, 1), (24, 2)],
    "trl/entropy": [(16, 1.5)],
    "test/accuracy": [(24, 0.75)],
}
ROWS = [[0, 1, 0.5, GOOD + " | more"], [0, 2, 0.25, SEED]]  # the beginning of its table of prompts


def rollouts(purpose: Purpose, rewards: list[float]) -> list[Rollout]:
    facts = [(reward, (5,) * (2 * i + 1), i % 2 == 1) for i, reward in enumerate(rewards)]
    return [Rollout(purpose, "p", "q", 0, "", tokens, (), reward, "", cut) for reward, tokens, cut in facts]


def shown(trackers: Trackers) -> None:
    """A run of one fast round and two steps, told as the books tell it."""
    prompts = [prompt(SEED, 0, 0.25), prompt(GOOD + " | more", 0, 0.5, SEED, feedback="line\nby line")]
    fast = {**round_(0, "fast", [GOOD + " | more", SEED], spent(0, 8)), "reward": 0.5}
    tell(trackers, 0, evaluation(-1, 0, 0.25, 0.0, spent(0)))
    trackers.count("fast", rollouts("fast", [0.5, 1.0]))
    tell(trackers, 8, *prompts, fast)
    tell(trackers, 16, step(1, 1, 0.375))
    trackers.show({"trl/entropy": 1.5, "trl/kl": float("nan"), "trl/name": "text"}, 16)
    tell(trackers, 24, step(1, 2, 0.625), end(1, 0.75, 0.5, spent(16, 8), [SEED]))


def tell(trackers: Trackers, at: int, *events: dict[str, Any]) -> None:
    for event in events:
        trackers.event(event["kind"], event, at)


def check(found: dict[str, list[tuple[int, float]]]) -> None:
    assert {name: found.get(name) for name in FIGURES} == FIGURES
    assert not any(name.startswith(("trl/kl", "trl/name", "train/round", "fast/channel")) for name in found)


def opened(folder: Path, *names: str, at: int = 0) -> Trackers:
    for name in names:
        if name in ("tensorboard", "mlflow", "wandb", "trackio"):
            pytest.importorskip(name, reason=f"{name} is not installed: pip install 'fast-slow-training[{name}]'")
    return Trackers.open(TrackParams(to=names, project="toys"), folder, CONFIG, at)


# -- TensorBoard ----------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = board(folder)
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def test_k2_k3_tensorboard(tmp_path: Path) -> None:
    trackers = opened(tmp_path / "run", "tensorboard")
    shown(trackers)
    trackers.close()
    check(scalars(tmp_path / "run"))
    (table,) = board(tmp_path / "run").Tensors("prompts/text_summary")
    lines = table.tensor_proto.string_val[0].decode().splitlines()
    assert table.step == 8
    assert lines[0] == f"| {' | '.join(COLUMNS)} |"
    assert lines[2].startswith("| 0 | 1 | 0.500 | Answer.<br>Sort first. \\| more | reflection | line<br>by line | ")
    assert lines[3].startswith("| 0 | 2 | 0.250 | Answer. | seed |  | ")
    assert len(lines) == 4


def test_k5_what_was_cut_off_is_shown_once(tmp_path: Path) -> None:
    for at, steps in ((0, (8, 16, 24)), (8, (16, 24, 32))):  # cut off after 24, taken up again after 8
        trackers = opened(tmp_path / "run", "tensorboard", at=at)
        for place in steps:
            trackers.event("step", {"step": place // 8, "reward": place + at}, place)
        trackers.close()
    assert scalars(tmp_path / "run")["train/reward"] == [(8, 8.0), (16, 24.0), (24, 32.0), (32, 40.0)]


# -- the others -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_k2_k3_k5_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its database takes half a minute to be made
    trackers = opened(tmp_path / "run", "mlflow")
    shown(trackers)
    trackers.close()
    again = opened(tmp_path / "run", "mlflow", at=24)
    again.show({"train/step": 3}, 32)
    again.close()
    from mlflow import MlflowClient
    from mlflow.artifacts import load_dict

    client = MlflowClient()
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name == "toys"])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {name: str(value) for name, value in CONFIGURED.items()} | {"start": "null"}
    histories = {tag: client.get_metric_history(run.info.run_id, tag) for tag in run.data.metrics}
    found = {tag: [(metric.step, metric.value) for metric in history] for tag, history in histories.items()}
    assert found["train/step"].pop() == (32, 3), "the run that goes on is the same"
    check(found)
    table = load_dict(f"{run.info.artifact_uri}/prompts/00000008.json")
    assert table["columns"] == list(COLUMNS)
    assert [row[:4] for row in table["data"]] == ROWS


def offline_records(file: Path) -> Iterator[Any]:
    """The records of an offline run of Weights & Biases: LevelDB's log format, protobuf in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        if place + 7 + length > len(data):
            return  # being written
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def ended(file: Path) -> bool:
    """Whether the last record is there: another process writes it, after `finish` returns."""
    return any(record.WhichOneof("record_type") == "exit" for record in offline_records(file))


@pytest.mark.slow
def test_k2_k3_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    trackers = opened(tmp_path / "run", "wandb")
    shown(trackers)
    trackers.close()
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    wait_until(lambda: ended(file), 60, "the end of the offline run on the disk")
    found: dict[str, list[tuple[int, float]]] = {}
    config: dict[str, Any] = {}
    for record in offline_records(file):
        config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            found.setdefault(name, []).append((items["_step"], value))
    assert CONFIGURED.items() <= config.items()
    check(found)
    ((at, path),) = found["prompts/path"]
    table = json.loads((file.parent / "files" / str(path)).read_text(encoding="utf-8"))
    assert (at, table["columns"]) == (8, list(COLUMNS))
    assert [row[:4] for row in table["data"]] == ROWS
    assert json.loads((tmp_path / "run" / TRACKED).read_text())["id"] in file.name


@pytest.mark.slow
def test_k2_k3_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackers = opened(tmp_path / "run", "trackio")
    shown(trackers)
    trackers.close()
    from trackio.sqlite_storage import SQLiteStorage

    found: dict[str, list[tuple[int, float]]] = {}
    for entry in SQLiteStorage.get_logs("toys", "run"):
        for name, value in entry.items():
            found.setdefault(name, []).append((entry["step"], value))
    ((at, table),) = found.pop("prompts")
    assert at == 8
    assert "table" in table["_type"]
    check(found)


# -- what must not happen -------------------------------------------------------------------------------


def test_k1_nothing_is_imported_where_nothing_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fst.config import Params; from fst.runs.trackers import Trackers\n"
        f"Trackers.open(Params().track, Path({str(tmp_path / 'run')!r}), {{}}).show({{'a': 1}}, 0)\n"
        "print([m for m in ('accelerate', 'torch', 'mlflow', 'tensorboard', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_k1_trl_imports_no_tracker_either() -> None:
    code = (
        "import sys, fst.stages.train\n"
        "print([m for m in ('mlflow', 'tensorboard', 'trackio', 'wandb') if m in sys.modules])\n"
        "import wandb; print(wandb.__name__)"  # what was hidden is there again
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "wandb"]


class Broken:
    """A tracker that fails from its second figure on."""

    name = "broken"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append("log")
        if len(self.calls) > 1:
            raise ConnectionError("no route to host")

    def finish(self) -> None:
        self.calls.append("finish")


class Kept(Broken):
    """A tracker that keeps what it is shown."""

    name = "kept"

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(f"{step}: {values}")


def test_k4_one_that_fails_is_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    broken, kept = Broken(), Kept()
    trackers = Trackers([broken, kept])
    with caplog.at_level(logging.WARNING, "fst"):
        for place in (1, 2, 3):
            trackers.show({"a": place}, place)
        trackers.close()
        trackers.close()
    (record,) = caplog.records
    assert record.getMessage() == "track.to: broken failed and is left out from here on: no route to host"
    assert broken.calls == ["log", "log"]
    assert kept.calls == ["1: {'a': 1}", "2: {'a': 2}", "3: {'a': 3}", "finish"]


def test_k4_one_that_cannot_begin_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("a file where its folder belongs")
    with caplog.at_level(logging.WARNING, "fst"):
        trackers = opened(tmp_path / "run", "tensorboard")
        shown(trackers)
        trackers.close()
    (record,) = caplog.records
    assert record.getMessage().startswith("track.to: tensorboard failed and is left out from here on: ")


def test_k9_one_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as Python does for what is not installed
    params = params_from_dict({"track": {"to": ["tensorboard", "wandb"]}})
    with pytest.raises(
        MissingDependency, match=r"^track\.to: wandb needs the package wandb: pip install .*\[wandb\]'$"
    ):
        run_job(Job("fst", "lab/reverse", 0, tmp_path / "runs" / "one", params), quiet=True)
    assert not (tmp_path / "runs").exists()


# -- whole runs -----------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "prepare": {"train": 16, "validation": 4, "test": 4},
    "slow": {"problems_per_step": 2, "group_size": 4, "lora_rank": 4, "warmup_steps": 0},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16},
    "reflector": {"proposals": 4, "max_new_tokens": 4},
    "loop": {"cycles": 2, "steps_per_cycle": 1},
    "evaluate": {"samples": 1},
}
VERIFIER = {"name": "regex", "pattern": "[a-l]", "search": True}  # an untrained model is right now and then


@pytest.mark.slow
def test_k5_k6_a_run_learns_the_same_and_goes_on_in_its_tracker(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Of two runs one is tracked, and cut off after two rounds of four."""
    require("tensorboard")
    data = tmp_path / "problems.jsonl"
    problems = [{"id": f"p{i}", "question": f"say {i}", "answer": str(i), "verifier": VERIFIER} for i in range(24)]
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    values = {**SMALL, "model": {"base": str(tiny_model_dir), "max_new_tokens": 4}}
    plain = Job("fst", f"jsonl:{data}", 0, tmp_path / "plain", params_from_dict(values))
    tracked = params_from_dict({**values, "track": {"to": ["tensorboard"]}})
    assert tracked.of_run() == plain.params.of_run(), "a run is the same whatever it is shown in"
    run_job(plain, quiet=True)
    job = dataclasses.replace(plain, folder=tmp_path / "tracked", params=tracked)
    with contextlib.closing(run_rounds(job, quiet=True)) as going:  # type: ignore[type-var]
        assert [next(going).round for _ in range(2)] == [1, 2]
    run_job(job, resume=True, quiet=True)
    one, other = summary_of(plain.folder), summary_of(job.folder)
    assert [one[key] for key in ("adapter_sha256", "prompts")] == [other[key] for key in ("adapter_sha256", "prompts")]
    assert not (plain.folder / TRACKED).exists()

    found, steps = scalars(job.folder), [event for event in events_of(job.folder) if event["kind"] == "step"]
    assert [value for _, value in found["train/reward"]] == pytest.approx([event["reward"] for event in steps])
    assert [value for _, value in found["train/step"]] == [1, 2]
    assert len(found["validation/accuracy"]) == 5
    assert found["test/accuracy"][0][1] == pytest.approx(other["accuracy"])
    assert found["rollouts/eval"][-1][1] == other["rollouts"]["eval"]
    assert all(0 < value < 10 for _, value in found["trl/entropy"]), "nats, of a vocabulary of hundreds"
    assert {"trl/kl", "trl/cispo_clip_ratio", "trl/completions/mean_length"} <= found.keys()


def test_k7_a_decision_of_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("tensorboard")
    monkeypatch.chdir(tmp_path)
    project = ToyProject(tmp_path, PARAMS + "track: {to: [tensorboard]}\n")
    project.release(project.candidate("zeta", project.base(), 0.5))
    project.candidate("zeta", project.base(), 0.75)
    decision = Candidate.of(Workspace(project.params), "zeta").judge()
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == f"gate-zeta-{decision.candidate[:12]}"
    found = {name: value for name, ((_, value),) in scalars(folder).items()}
    assert found["gate/release"] == 1.0
    assert found["gate/difference/mean"] == found["gate/reward"] == 0.25
    assert found["gate/kl/zeta"] == 0.25
    (table,) = board(folder).Tensors("gate/text_summary")
    assert "KL from the base of 0.250 nats a token" in table.tensor_proto.string_val[0].decode()


def test_k8_what_is_made_again_is_not_shown() -> None:
    recipe = Recipe("c" * 40, False, {"loop": {"cycles": 3}, "track": {"to": ["wandb"]}}, "zeta", {})
    assert recipe.params_yaml == "loop:\n  cycles: 3\n"
