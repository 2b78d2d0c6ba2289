"""Training on two processes over gloo. R1 advantages, rewards and rollouts are those of one process on the same
answers; R2 so is the gradient, with answers of unequal lengths on the two ranks; R3 also when one rank, or both, has no
signal; R4 a run by `torchrun` learns, counts every rollout once and leaves one run folder; R5 killed and
resumed it ends the same; R6 a batch that cannot be dealt is refused; R7 the shipped configurations are ones that
accelerate reads; R8 what rank 0 does alone is done once, and what it returns or raises is returned or raised
everywhere; R9 fast rounds and evaluations are rank 0's alone, and all ranks end with the same prompts and adapter; R10
a model in parts takes every rank, and R11 is not asked for answers of its own."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fst.config import params_from_dict
from fst.errors import ConfigError
from fst.lines import read_lines
from fst.method.run import ranks
from fst.method.run.runner import Job, prepare
from fst.runs.progress import Progress
from fst.runs.records import valid_lines

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "pipelines" / "accelerate").glob("*.yaml"))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def steps(world: int, model: Path, out: Path) -> list[dict[str, Any]]:
    """What each rank found in the step of each case."""
    out.mkdir()
    together(world, "support.rank_toys", str(model), str(out))
    return [torch.load(out / f"rank-{r}.pt", weights_only=True) for r in range(world)]


def together(world: int, module: str, *arguments: str) -> None:
    """Run a module of the tests on several ranks."""
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    shared = {**os.environ, **shared, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", module, *arguments]
    started = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(world)
    ]
    said = [process.communicate(timeout=400)[1] for process in started]
    assert [process.returncode for process in started] == [0] * world, said


@pytest.mark.slow
def test_r1_r2_r3_two_ranks_take_the_step_of_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    (alone,) = steps(1, tiny_model_dir, tmp_path / "one")
    both = steps(2, tiny_model_dir, tmp_path / "two")
    assert list(alone) == ["all", "silent", "mute", "reused"]
    for case in alone:
        expect_same(case, alone[case], [found[case] for found in both])


def expect_same(case: str, alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    """The figures of a step on one process, and those of two."""
    assert torch.allclose(torch.cat([found["advantages"] for found in both]), alone["advantages"], atol=1e-6)
    assert alone["kept_groups"] == {"all": 4, "silent": 2, "mute": 0, "reused": 4}[case]
    assert (alone["reused"][0], len(alone["rollouts"])) == ((3, 13) if case == "reused" else (0, 16))
    for found in both:
        assert found["reused"] == alone["reused"]
        assert found["rollouts"] == alone["rollouts"]
        assert (found["reward"], found["kept_groups"]) == (pytest.approx(alone["reward"]), alone["kept_groups"])
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5, abs=1e-7)
        assert found["gradient"].keys() == alone["gradient"].keys()
        if case == "mute":
            assert not found["gradient"], "no step is taken"
            continue
        scale = max(float(g.abs().max()) for g in alone["gradient"].values())
        assert scale > 1e-5
        for name, gradient in found["gradient"].items():
            assert torch.allclose(gradient, alone["gradient"][name], atol=1e-5 * scale), name


SMALL = (
    "loop.reuse=true",
    *("prepare.train=256", "prepare.validation=10", "prepare.test=10", "slow.warmup_steps=2"),
    *("fast.anchors=8", "fast.minibatch=4", "fast.budget=40", "fast.patience=1", "reflector.proposals=16"),
    *(
        "loop.cycles=2",
        "loop.steps_per_cycle=10",
        "loop.rollout_budget=3000",
        "evaluate.samples=1",
        "evaluate.kl_problems=4",
    ),
    "loop.seed_prompt=put the digits in decreasing order, then add one to each digit",
)


def launch(runs: Path, arm: str, *more: str, problems: Path | None = None) -> subprocess.Popen[str]:
    """A run on two ranks; what rank 1 records is in a folder beside `runs`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    command += ["-m", "--", "fst.cli", "train", "--run", "run", "--runs", str(runs)]
    command += ["--arm", arm, "--resume", "--quiet"]
    command += ["--data", str(problems)] if problems else ["--domain", "lab/sort_desc+add_one"]
    command += [option for setting in (*SMALL, *more) for option in ("--set", setting)]
    scratch = runs.with_name(f"{runs.name}-scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    env["ACCELERATE_USE_CPU"] = "true"
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def events(runs: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in valid_lines(read_lines(runs / "run" / "events.jsonl")) if e["kind"] == kind]


@pytest.mark.slow
def test_r4_two_ranks_learn(tmp_path: Path) -> None:
    """To end an answer with a digit from 5 to 9, which one in seven does at first."""
    rng = random.Random(0)
    questions = {" ".join(rng.choices("0123456789", k=5)) for _ in range(300)}
    problem = {"answer": "[5-9]$", "verifier": {"name": "regex", "search": True}}
    lines = [json.dumps({"id": question, "question": question, **problem}) for question in sorted(questions)]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    process = launch(tmp_path / "runs", "rl", "loop.seed_prompt=Solve the task.", problems=tmp_path / "problems.jsonl")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    rewards = [event["reward"] for event in events(tmp_path / "runs", "step")]
    assert len(rewards) == 30
    assert sum(rewards[:4]) / 4 < 0.4
    assert sum(rewards[-4:]) / 4 > 0.8


@pytest.mark.slow
def test_r4_r5_a_run_on_two_ranks_is_one_run_and_resumes(tmp_path: Path) -> None:
    few = ("loop.steps_per_cycle=4",)
    process = launch(tmp_path / "whole", "fst", *few)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (end,) = events(tmp_path / "whole", "end")
    lines = list(read_lines(tmp_path / "whole" / "run" / "rollouts.jsonl"))
    assert {c: sum(line["channel"] == c for line in lines) for c in ("train", "fast", "eval")} == end["rollouts"]
    reused = [step["reused"] for step in events(tmp_path / "whole", "step")]
    assert sum(reused) > 0
    assert end["rollouts"]["train"] + sum(reused) == 2 * 4 * 16 * 8
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["run"]
    expect_rank_0_alone(tmp_path / "whole")

    cut = launch(tmp_path / "cut", "fst", *few)
    until = time.monotonic() + 200
    while not (tmp_path / "cut" / "run" / "events.jsonl").exists() or len(events(tmp_path / "cut", "round")) < 2:
        assert cut.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    launcher = psutil.Process(cut.pid)
    for one in (*launcher.children(recursive=True), launcher):  # the ranks have sessions of their own
        one.kill()
    cut.communicate()
    process = launch(tmp_path / "cut", "fst", *few)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert events(tmp_path / "cut", "resume")
    (resumed,) = events(tmp_path / "cut", "end")
    assert (resumed["adapter_sha256"], resumed["prompts"]) == (end["adapter_sha256"], end["prompts"])


def expect_rank_0_alone(runs: Path) -> None:
    """Rank 1 answered its share of the training only, and came to the end that rank 0 came to."""
    (own,) = runs.with_name(f"{runs.name}-scratch").glob("fst-rank-1-*")
    assert {line["channel"] for line in read_lines(own / "run" / "rollouts.jsonl")} == {"train"}
    (first,), (second,) = events(runs, "end"), events(own, "end")
    for key in ("adapter_sha256", "prompts", "rollouts", "accuracy", "kl"):
        assert first[key] == second[key], key
    assert [event["population"] for event in events(runs, "round")] == [e["population"] for e in events(own, "round")]


@pytest.mark.slow
def test_r8_what_rank_0_does_alone(tmp_path: Path) -> None:
    together(2, "support.rank_calls", str(tmp_path))
    first, second = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2))
    assert first["done"] == ["value", "known", "unsendable"]
    assert second["done"] == []
    assert first["value"] == second["value"] == {"rank": 0, "draws": [1, 2]}
    assert first["known"] == second["known"] == ["EngineError", "the server ended"]
    assert first["unsendable"] == ["Unsendable", "no room"]
    assert second["unsendable"] == ["RuntimeError", "rank 0 failed: Unsendable: no room"]
    assert first["engine"] == ["ready", "join http://rank-0"]
    assert second["engine"] == ["join http://rank-0"]
    assert first["disagree"] == second["disagree"]
    assert "the 2 processes differ in ranks" in first["disagree"]


@pytest.mark.parametrize(
    ("launched", "sharded"),
    [
        ({}, False),
        ({"ACCELERATE_USE_FSDP": "true"}, True),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, True),
    ],
)
def test_r10_a_model_in_parts(launched: dict[str, str], sharded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert ranks.sharded() is sharded


def test_r11_a_model_in_parts_cannot_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Ranks whose answers end at different times would wait for each other."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    params = params_from_dict({"model": {"base": str(tiny_model_dir), "max_new_tokens": 4}})
    job = Job("rl", "lab/reverse", 0, tmp_path / "run", params)
    with pytest.raises(ConfigError, match=r"^model\.engine: transformers answers with .* say vllm"):
        prepare(job, Progress(1, 1, "rl", "lab/reverse", quiet=True))
    assert not job.folder.exists()


def test_r6_a_batch_that_cannot_be_dealt_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: Any
) -> None:
    from support.slow_toys import PROBLEMS, Watched, population

    slow = Watched(policy, tmp_path)
    accelerator = type("TwoProcesses", (), {"process_index": 0, "num_processes": 2})()
    monkeypatch.setattr(slow.trainer, "accelerator", accelerator)
    with pytest.raises(ConfigError, match=r"slow.problems_per_step: 3 problems cannot be dealt to 2 processes"):
        slow.train_step(population(2), PROBLEMS[:3])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_r7_the_configurations_are_read(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    assert str(config.distributed_type).split(".")[-1].lower() in ("multi_gpu", "fsdp", "deepspeed")


def test_one_process_asks_nobody() -> None:
    assert (ranks.rank(), ranks.world(), ranks.everyones([3]), ranks.of_first(lambda: "x")) == (0, 1, [3], "x")
    ranks.agree(object(), "anything")
    ranks.wait()
