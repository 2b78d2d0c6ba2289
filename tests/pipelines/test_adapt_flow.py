"""The flow `adapt` on a real Prefect server. R1 however often an alert is sent, one run starts, which releases the
domain on its own channel, through the gate; R2 where the prompts alone are not enough, slow rounds follow with the
evolved prompts, and are judged again; R3 two adaptations of one domain never run side by side, and the later one finds
nothing to do; R4 a refusal leaves the channel alone and is told; R5 too little traffic fails in a sentence, and nothing
is left behind; R6 DVC versions the problems, and `fst reproduce` makes an adapted release again; R7 a run that ended
before it began is followed by another one. All of it after an experiment that was taken back: params.yaml and
models/bundles are no longer what production was made with and of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.store.bundle import read_bundle, write_bundle
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from support.lab_project import DOMAINS, LabProject
from support.prefect_server import Server, prefect_server

pytestmark = pytest.mark.slow

ADAPT = {"min_problems": 80, "max_problems": 120, "wait_seconds": 0.0, "fast_cycles": 1, "slow_cycles": 1}
FACTS: dict[str, Any] = {
    "tenant": "t",
    "routed": "header",
    "novelty": 0.9,
    "release": "r",
    "variant": "production",
    "prompt": "p",
    "response": "a",
    "tokens": (9, 6),
    "seconds": 0.1,
    "finish": "stop",
    "status": 200,
}
ONE = {"first": DOMAINS["first"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, reproduced: LabProject) -> LabProject:
    """One domain released; in the traffic, scored requests of two others that it does not know. The working tree is
    that of an experiment."""
    folder = tmp_path_factory.mktemp("adapt") / "project"
    project = reproduced.copy(folder, ONE, adapt={**ADAPT, "enough": 0.0}, gate={"max_kl": 100.0})
    project.run("fst", "release", "first")
    project.params["train"] = {**project.params["train"], "seed": 3}
    project.params["slow"] = {**project.params["slow"], "lora_rank": 4}
    project.write_params()
    bundle = read_bundle(project.root / "models" / "bundles" / "first")
    documents = {"prompts.json": bundle.prompts(), "evaluation.json": {}}
    manifest = {key: value for key, value in bundle.manifest.items() if key != "files"}
    write_bundle(bundle.folder, manifest, documents, None)
    write_traffic(project, "reversed", "lab/letters:reverse", 100)
    write_traffic(project, "mixed", "lab/letters:drop_first+rotate_left", 100)
    return project


def write_traffic(project: LabProject, domain: str, spec: str, count: int) -> None:
    log = TrafficLog(project.root / "traffic", LogLimits())
    for number, problem in enumerate(load_domain(spec, SplitSizes(count, 1, 1), 3).train):
        log.append(Request(f"{domain}{number}", time.time(), question=problem.question, domain=domain, **FACTS))
        log.append(Feedback(f"{domain}{number}", time.time(), "t", 0.0, problem.answer, "", "verifier"))
    log.close()


def adapt(project: LabProject, server: Server, domain: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "pipelines", "flow", "adapt", domain, *more)
    return project.run(*command, check=False, **server.environment)


def steps(project: LabProject, domain: str) -> list[dict[str, Any]]:
    path = project.root / "reports" / "monitoring" / "adaptations.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["domain"] == domain]


def events(project: LabProject, domain: str) -> list[str]:
    return [line["event"] for line in steps(project, domain)]


def channel(project: LabProject) -> dict[str, Any]:
    return dict(json.loads((project.root / "models" / "releases" / "channels" / "prod.json").read_text()))


def manifest(project: LabProject, bundle: str) -> dict[str, Any]:
    return dict(json.loads((project.root / "models" / "releases" / "bundles" / bundle / "manifest.json").read_text()))


def test_r1_an_alert_that_is_sent_often_starts_one_run(project: LabProject, server: Server) -> None:
    before = channel(project)["bundle"]
    process = project.start(sys.executable, "-m", "pipelines", "deploy", **server.environment)
    try:
        server.wait_for("deployments", deployments={"name": {"any_": ["on-alert"]}})
        alert = {"domain": "reversed", "channel": "prod", "at": time.time(), "since": 0.0}
        storm = "from pipelines.deployments import ask_for_adaptation as ask\n"
        project.run(sys.executable, "-c", f"{storm}for _ in range(12): ask({alert})", **server.environment)
        deployment = {"name": {"any_": ["on-alert"]}}
        done = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}
        server.wait_for("flow_runs", deployments=deployment, flow_runs=done)
        runs = server.ask("flow_runs", deployments=deployment)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert [run["state"]["type"] for run in runs] == ["COMPLETED"], said
    assert runs[0]["parameters"]["domain"] == "reversed"
    assert runs[0]["state"]["name"] == "Released"
    assert runs[0]["parameters"]["at"] == alert["at"]
    assert events(project, "reversed") == ["started", "collected", "fast", "judged", "published", "released"]
    after = channel(project)["bundle"]
    assert after == steps(project, "reversed")[-1]["bundle"] != before
    found = manifest(project, after)
    assert set(found["domains"]) == {"first", "reversed"}
    assert found["gate"] == {"production": before, "verdict": "release"}
    weights = [manifest(project, bundle)["files"]["adapter/adapter_model.safetensors"] for bundle in (before, after)]
    assert weights[0] == weights[1], "fast rounds leave the weights alone"


def test_r3_the_later_of_two_finds_nothing_to_do(project: LabProject, server: Server) -> None:
    """Both alerts were raised before either was answered; the lines of the account never mix."""
    command = (sys.executable, "-m", "pipelines", "flow", "adapt", "mixed")
    processes = [project.start(*command, **server.environment) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    found = events(project, "mixed")
    assert found == ["started", "collected", "fast", "judged", "published", "released", "skipped"]
    assert len(channel(project)["history"]) == 3


def test_r2_slow_rounds_follow_where_prompts_are_not_enough(project: LabProject, server: Server) -> None:
    project.params["adapt"] = {**project.params["adapt"], "enough": 1.0, "max_problems": 90}
    project.write_params()
    before = channel(project)["bundle"]
    done = adapt(project, server, "mixed")
    assert done.returncode == 0, done.stdout + done.stderr
    own = steps(project, "mixed")[7:]
    published = any(line["event"] == "published" for line in own)
    assert own[-1]["event"] == ("released" if published else "refused")
    found = [line for line in own if line["event"] != "published"]
    assert [line["event"] for line in found][:3] == ["started", "collected", "fast"]
    assert [line["event"] for line in found][-3:-1] == ["slow", "judged"]
    slow = found[-2]["stage"]
    assert slow == f"{found[1]['stage']}-slow"
    start = json.loads((project.root / "models" / "bundles" / slow / "manifest.json").read_text())
    adapters = [
        manifest(project, before)["files"]["adapter/adapter_model.safetensors"],
        start["files"]["adapter/adapter_model.safetensors"],
    ]
    assert adapters[0] != adapters[1], "the weights were trained"
    assert start["run"]["arm"] == "fst"
    assert set(start["domains"]) == {"first", "reversed", "mixed"}


def test_r4_a_refusal_leaves_the_channel_alone(project: LabProject, server: Server) -> None:
    project.params["adapt"] = {**project.params["adapt"], "enough": 0.0, "max_problems": 85}
    project.params["gate"] = {**project.params["gate"], "max_prompt_tokens": 1}
    project.write_params()
    before = channel(project)
    done = adapt(project, server, "reversed")
    assert done.returncode == 0, done.stdout + done.stderr
    last = steps(project, "reversed")[-3:]
    assert last[-1]["event"] == "refused"
    assert any("prompt" in reason for line in last for reason in line.get("reasons", ()))
    assert channel(project) == before


def test_r5_too_little_traffic_is_said(project: LabProject, server: Server) -> None:
    write_traffic(project, "rare", "lab/letters:sort_asc", 7)
    before = channel(project)
    done = adapt(project, server, "rare")
    assert done.returncode == 2
    assert "rare: 7 questions with one right answer in the traffic, adapt.min_problems asks for 80" in done.stderr
    assert events(project, "rare") == ["started", "failed"]
    assert channel(project) == before
    assert not list((project.root / "data" / "traffic").glob("rare*"))


def test_r6_the_problems_are_versioned_and_the_release_is_made_again(project: LabProject, server: Server) -> None:
    released = next(line for line in steps(project, "reversed") if line["event"] == "released")
    file = project.root / "data" / "traffic" / f"{released['stage']}.jsonl"
    assert file.exists()
    assert file.with_name(f"{file.name}.dvc").exists()
    done = project.run("fst", "reproduce", released["bundle"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_r7_a_run_that_ended_before_it_began_is_followed_by_another(project: LabProject, server: Server) -> None:
    """Nobody serves the deployments here, so no run begins."""
    code = """
from prefect.client.orchestration import get_client
from prefect.states import Cancelled
from pipelines.deployments import ask_for_adaptation
alert = {"domain": "rare", "channel": "prod", "at": 12.25, "since": 0.0}
runs = [ask_for_adaptation(alert) for _ in range(2)]
with get_client(sync_client=True) as client:
    client.set_flow_run_state(runs[0].id, Cancelled(), force=True)
runs += [ask_for_adaptation(alert) for _ in range(2)]
print("runs", *(run.id for run in runs))
"""
    said = project.run(sys.executable, "-c", code, **server.environment).stdout
    first, again, second, once_more = said.rpartition("runs ")[2].split()
    assert first == again != second == once_more
