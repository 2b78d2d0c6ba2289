"""The vLLM engine with a real pretrained model, SmolLM2-135M, on the CPU. Q1 each step's answers come from the adapter
that the step before made, and their log-probabilities are those of the model that is trained, but for rounding; Q2 two
processes train one adapter with one server, which ends with them; Q3 what is longer than the server's context is
refused. Skipped without an environment of vLLM (`make vllm`)."""

from __future__ import annotations

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel

from fst.config import Params, params_from_dict
from fst.data.types import Problem
from fst.errors import EngineError
from fst.lines import read_lines
from fst.method.slow.weights import SlowWeights
from fst.models.engines.registry import load_with_engine
from fst.models.engines.vllm import VllmEngine
from fst.models.likelihood import answer_logprobs
from fst.models.policy import Policy
from fst.runs.records import valid_lines
from fst.types import Population, Prompt
from support.lab_project import wait_until
from support.slow_toys import verify

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("FST_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment of vLLM here: make it with `make vllm`"),
]
QUESTIONS = ("Name three fruits.", "What is 12 + 7?", "Write a short greeting.", "Which animals can fly?")
PROMPTS = (Prompt("You answer in one short sentence."), Prompt("You are a poet."))


@pytest.fixture(scope="module")
def params(smollm2: Path) -> Params:
    return params_from_dict(
        {
            "model": {"base": str(smollm2), "engine": "vllm", "max_new_tokens": 16, "device": "cpu"},
            "vllm": {"python": str(PYTHON), "context": 256, "start_seconds": 600.0},
            "slow": {"problems_per_step": 2, "group_size": 4, "warmup_steps": 0, "learning_rate": 3e-3},
            "fast": {"prompts": 2},
        }
    )


@pytest.fixture(scope="module")
def policy(params: Params) -> Iterator[Policy]:
    policy = load_with_engine(params)
    yield policy
    policy.engine.close()


def expect_the_models_own(policy: Policy, seed: int) -> list[str]:
    """Sampled answers, whose log-probabilities are checked against the model's own for the same tokens."""
    requests = policy.encode([policy.messages(PROMPTS[0].text, question) for question in QUESTIONS])
    groups = policy.answer_ids(requests, 4, seed)
    answers = [answer for group in groups for answer in group]
    assert len({answer.tokens for answer in answers}) > 12
    contexts = [request for request in requests for _ in range(4)]
    own = answer_logprobs(policy.model, contexts, [list(answer.tokens) for answer in answers], policy.pad_id)
    apart = [
        abs(sum(answer.logprobs) - expected) / len(answer.tokens) for answer, expected in zip(answers, own, strict=True)
    ]
    assert statistics.median(apart) < 0.05, apart
    return [answer.text for answer in answers]


def test_q1_each_step_samples_with_its_own_adapter(policy: Policy, params: Params, tmp_path: Path) -> None:
    torch.manual_seed(0)
    said = [expect_the_models_own(policy, 7)]
    assert expect_the_models_own(policy, 7) == said[0]
    problems = [Problem(f"p{i}", "toy", question, "") for i, question in enumerate(QUESTIONS)]
    slow = SlowWeights(policy, params.slow, params.model, verify, tmp_path, seed=0)
    engine = policy.engine
    assert isinstance(engine, VllmEngine)
    names = []
    for step in range(2):
        found, _ = slow.train_step(Population(PROMPTS), problems[2 * step : 2 * step + 2])
        assert found.kept_groups, "the step changed the adapter"
        said.append(expect_the_models_own(policy, 7))
        names.append(engine._name)
    assert len(set(names)) == 2
    assert said[0] != said[1] != said[2], "other adapters, other answers to the same seed"
    assert isinstance(policy.model, PeftModel)
    with policy.frozen_base():
        assert expect_the_models_own(policy, 7) == said[0]


def test_q3_what_is_too_long_is_refused(policy: Policy) -> None:
    assert policy.engine.context == 256
    long = policy.encode([policy.messages("", "again and again " * 100)])
    with pytest.raises(EngineError, match=r"refused /v1/completions \(400\).*256"):
        policy.answer_ids(long, 1, 0)


def launch(model: Path, folder: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    """A small run on two ranks; half of all answers are right, whatever they say."""
    dice = random.Random(0)
    with (folder / "problems.jsonl").open("w", encoding="utf-8") as file:
        for i in range(24):
            question = f"What is {dice.randrange(10, 99)} + {dice.randrange(10, 99)}?"
            even = {"name": "regex", "pattern": r"(?s)^(..)*$"}
            file.write(json.dumps({"id": f"p{i}", "question": question, "answer": "even", "verifier": even}) + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = (
        *("model.engine=vllm", "model.max_new_tokens=12", f"vllm.python={PYTHON}", "vllm.start_seconds=600"),
        *("prepare.train=16", "prepare.validation=4", "prepare.test=4", "evaluate.samples=1", "evaluate.kl_problems=2"),
        *("slow.problems_per_step=2", "slow.group_size=4", "slow.warmup_steps=0"),
        *(
            "fast.prompts=2",
            "fast.anchors=4",
            "fast.minibatch=2",
            "fast.budget=16",
            "loop.cycles=1",
            "loop.steps_per_cycle=2",
            "reflector.style=feedback",
        ),
        *("reflector.proposals=2", "reflector.max_new_tokens=16"),
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    command += ["-m", "--", "fst.cli", "train", "--run", "run", "--runs", str(folder / "runs")]
    command += ["--data", str(folder / "problems.jsonl")]
    command += ["--model", str(model), "--quiet", *(word for setting in settings for word in ("--set", setting))]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    env["ACCELERATE_USE_CPU"] = "true"
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in valid_lines(read_lines(folder / "run" / "events.jsonl")) if e["kind"] == kind]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short path, as the sockets of vLLM need."""
    with tempfile.TemporaryDirectory(prefix="fst-") as folder:
        yield Path(folder)


def test_q2_two_ranks_with_one_server(smollm2: Path, tmp_path: Path, scratch: Path) -> None:
    done = launch(smollm2, tmp_path, scratch)
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = scratch.glob("fst-vllm-*/server.log")
    (own,) = scratch.glob("fst-rank-1-*")
    (first,), (second,) = events(tmp_path / "runs", "end"), events(own, "end")
    assert first["adapter_sha256"] == second["adapter_sha256"]
    assert first["prompts"] == second["prompts"]
    assert first["rollouts"]["train"] == 2 * 2 * 4
    moved = [step for step in events(tmp_path / "runs", "step") if step["kept_groups"]]
    assert moved
    loads = [line for line in log.read_text(errors="replace").splitlines() if "POST /v1/load_lora_adapter" in line]
    assert ["200 OK" in line for line in loads] == [True] * (1 + len(moved)), "each adapter once, for both"
    wait_until(lambda: not processes_of(scratch), 120, "a process of the run lives on: the server should end with it")


def processes_of(scratch: Path) -> list[psutil.Process]:
    """Those that were started with this folder for temporary files, whoever their parent is now."""
    running = psutil.process_iter(["environ", "status"])
    return [
        process
        for process in running
        if (process.info["environ"] or {}).get("TMPDIR") == str(scratch)
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]
