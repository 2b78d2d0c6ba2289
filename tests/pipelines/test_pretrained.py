"""A real pretrained model, SmolLM2-135M, through one whole cycle: P1 both rounds, evaluation, bundle, gate and serving
end well; P2 weights and prompts both learned from signal; P3 within 6 GiB."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from fst.lines import read_lines
from fst.runs.records import valid_lines
from fst.traffic.load import free_port
from support.lab_project import LabProject, alive, wait_until

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {
    "prepare": {"train": 16, "validation": 16, "test": 16},
    "slow": {"problems_per_step": 4, "group_size": 4, "micro_tokens": 512},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16, "patience": 1, "max_prompt_tokens": 128},
    "reflector": {"style": "feedback", "proposals": 4, "max_new_tokens": 24},
    "loop": {"cycles": 1, "steps_per_cycle": 2, "seed_prompt": "Answer with one word."},
    "evaluate": {"samples": 1, "kl_problems": 2},
}
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "a").write(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}\\n")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def project(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> LabProject:
    model = {"base": str(smollm2), "max_new_tokens": 8, "cache_gb": 0.5}
    domains = {"words": {"spec": "jsonl:words.jsonl", "source": "words.jsonl", "start": "base"}}
    project = LabProject(tmp_path_factory.mktemp("pretrained") / "project", domains, model=model, **SMALL)
    rng, known = random.Random(0), ("river", "stone", "apple", "window", "letter", "train", "paper", "garden")
    asked = {f"Say something about a {a} and a {b}." for a in known for b in rng.sample(known, 6)}
    problem = {"answer": "^[A-L]", "verifier": {"name": "regex", "search": True}}  # of real answers, some begin so
    lines = [json.dumps({"id": str(i), "question": text, **problem}) for i, text in enumerate(sorted(asked))]
    (project.root / "words.jsonl").write_text("\n".join(lines), encoding="utf-8")
    measured(project, "dvc", "repro", "bundle@words")
    return project


def measured(project: LabProject, *command: str) -> str:
    """Run a command; the most memory of a process of it goes to peak.txt, in KiB."""
    return project.run(sys.executable, "-c", MEASURED, "peak.txt", *command).stdout


def events(project: LabProject) -> list[dict[str, Any]]:
    (run,) = project.ended_runs()
    return list(valid_lines(read_lines(run / "events.jsonl")))


def test_p1_p2_both_rounds_and_the_evaluation(project: LabProject) -> None:
    found = events(project)
    assert [event["channel"] for event in found if event["kind"] == "round"] == ["fast", "slow"]
    assert any(event["kept_groups"] and event["grad_norm"] > 0 for event in found if event["kind"] == "step")
    proposed = [event for event in found if event["kind"] == "prompt" and event["parents"]]
    assert proposed, "the model proposed prompts from feedback on its own answers"
    (end,) = [event for event in found if event["kind"] == "end"]
    assert end["rollouts"]["train"] == 2 * 4 * 4
    assert 0 < end["rollouts"]["fast"] <= 16
    assert end["kl"] > 0


def test_p1_gate_and_serving(project: LabProject) -> None:
    measured(project, "fst", "release", "words")
    (decision,) = project.root.glob("models/releases/**/gate.json")
    assert json.loads(decision.read_text())["verdict"] == "release"
    port = free_port()
    gateway = project.start("fst", "serve", "--set", f"serve.port={port}")
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/healthz") or not alive(gateway.pid), 120, "the gateway is not up")
        body = {"model": "fst", "messages": [{"role": "user", "content": "Say something about a river."}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-FST-Domain"] == "words"
        said = answer.json()
        assert said["choices"][0]["message"]["content"]
        assert 0 < said["usage"]["completion_tokens"] <= 8
    finally:
        gateway.send_signal(signal.SIGTERM)
        text, _ = gateway.communicate(timeout=60)
    assert gateway.returncode == 143, text


def test_p3_memory(project: LabProject) -> None:
    peaks = [int(line) for line in (project.root / "peak.txt").read_text().split()]
    assert max(peaks) < 6 * 2**20


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
