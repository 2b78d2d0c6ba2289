"""The flows on a real Prefect server and a small project. F1 `continual` ends with a gated release a domain, DVC finds
nothing to do, and a cold `dvc repro` elsewhere gives the same hashes; F2 a second time everything is skipped and
nothing is released again; F3 every round is a task of its own with reward and KL, and the artifacts are there; F4 a
child that is killed in a round is replaced and the training ends the same; F5 a flow that is killed leaves no
process behind, and the next one goes on; F6 a gate that refuses is a state of its name, leaves production alone and
keeps no other domain from being done; F7 only
one training at a time, and never without the limit; F8 mistakes are not retried; F9 a database that is locked for a
while delays a flow and loses nothing; F10 a schedule and an event start runs, with
their parameters; F11 a round that hangs is ended, tried again, and then given up; F12 data that breaks a critical
expectation stops the flow with its rows, and goes through once mended; F13 the server calls a run crashed whose process
was killed."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.lab_project import (
    DOMAINS,
    ROOT,
    LabProject,
    alive,
    children,
    descendants,
    environment,
    rounds_done,
    wait_until,
)
from support.prefect_server import Server, prefect_server

pytestmark = pytest.mark.slow

ONE = {"first": DOMAINS["first"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server


def flow(project: LabProject, server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run(sys.executable, "-m", "pipelines", "flow", *arguments, check=False, **server.environment)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, server: Server) -> LabProject:
    """Two domains that arrived and were released."""
    project = LabProject(tmp_path_factory.mktemp("flows") / "project")
    done = flow(project, server, "continual")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def channel(project: LabProject) -> dict[str, Any]:
    return dict(json.loads((project.root / "models" / "releases" / "channels" / "prod.json").read_text()))


def test_f1_dvc_finds_nothing_to_do_and_a_cold_repro_gives_the_same_bytes(
    project: LabProject, reproduced: LabProject
) -> None:
    assert project.status() == {}
    assert project.locked_outputs() == reproduced.locked_outputs()
    history = channel(project)["history"]
    assert [entry["reason"].split(":")[0] for entry in history] == ["first", "second"]
    manifest = json.loads(
        (project.root / "models" / "releases" / "bundles" / channel(project)["bundle"] / "manifest.json").read_text()
    )
    assert set(manifest["domains"]) == {"first", "second"}
    assert manifest["gate"] == {"production": history[0]["bundle"], "verdict": "release"}


def test_f3_every_round_is_a_task_with_its_figures(project: LabProject, server: Server) -> None:
    runs = server.ask("task_runs", task_runs={"name": {"like_": "second: round"}})
    said = sorted((run["name"], run["state"]["message"]) for run in runs)
    assert [name for name, _ in said] == [f"second: round {i}" for i in range(4)]
    kinds = [
        re.match(r"(fast|slow) round \d: reward [01]\.\d{3}, accuracy [01]\.\d{3}, KL \d+\.\d{4}", m) for _, m in said
    ]
    assert [kind and kind[1] for kind in kinds] == ["fast", "slow", "fast", "slow"]
    artifacts = {a["key"]: a for a in server.ask("artifacts")}
    assert {"validation-second", "rounds-second", "curve-second", "metrics-second", "gate-second"} <= set(artifacts)
    assert artifacts["curve-second"]["data"].startswith("data:image/png;base64,")
    assert "| reward | all | pass |" in artifacts["gate-second"]["data"]
    assert len(json.loads(artifacts["rounds-second"]["data"])) == 4


def test_f2_what_is_current_is_skipped(project: LabProject, server: Server) -> None:
    before = (channel(project), project.locked_outputs())
    done = flow(project, server, "continual")
    assert done.returncode == 0, done.stdout + done.stderr
    released = json.loads(re.search(r"^\[$.*?^\]$", done.stdout, re.MULTILINE | re.DOTALL)[0])  # type: ignore[index]
    assert [r["new"] for r in released] == [False, False]
    assert (channel(project), project.locked_outputs()) == before


def test_f4_a_killed_child_is_replaced_and_the_training_ends_the_same(
    tmp_path: Path, server: Server, reproduced: LabProject
) -> None:
    project = reproduced.copy(tmp_path / "project", ONE, trained=False)
    process = project.start(sys.executable, "-m", "pipelines", "flow", "train", "first", **server.environment)
    wait_until(lambda: rounds_done(project) >= 1 or process.poll() is not None, 120, "no round was done")
    (worker,) = [c for c in children(process.pid) if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "was killed from outside" in said
    assert project.locked_outputs()["models/trained/first"] == reproduced.locked_outputs()["models/trained/first"]


def test_f5_a_killed_flow_leaves_nothing_behind_and_the_next_goes_on(
    tmp_path: Path, server: Server, reproduced: LabProject
) -> None:
    project = reproduced.copy(tmp_path / "project", ONE, trained=False)
    process = project.start(sys.executable, "-m", "pipelines", "flow", "train", "first", **server.environment)
    wait_until(lambda: rounds_done(project) >= 1 or process.poll() is not None, 120, "no round was done")
    family = descendants(process.pid)
    process.kill()
    process.communicate()
    assert family
    wait_until(lambda: not any(map(alive, family)), 20, "a process of the killed flow lives on")
    done = flow(project, server, "train", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.locked_outputs()["models/trained/first"] == reproduced.locked_outputs()["models/trained/first"]


def test_f6_a_refusal_leaves_production_alone_and_the_others_go_on(project: LabProject, server: Server) -> None:
    before, params = channel(project), (project.root / "params.yaml").read_text()
    try:
        domains = project.params["domains"]
        project.params["domains"] = {**domains, "second": {**domains["second"], "set": ["train.seed=1"]}}
        project.params["gate"] = {**project.params["gate"], "max_prompt_tokens": 1}
        project.write_params()
        done = flow(project, server, "continual", "second", "first")
        assert done.returncode == 5, done.stdout + done.stderr
        assert "fst: the gate refused, and production stays as it is:\nsecond: " in done.stderr
        assert "over by" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert channel(project) == before
        latest: dict[str, Any] = {"sort": "START_TIME_DESC", "limit": 1}
        states = {}
        for name in ("release second", "release first", "continual"):
            (run,) = server.ask("flow_runs", flow_runs={"name": {"like_": name}}, **latest)
            states[name] = run["state"]
        assert [(s["type"], s["name"]) for s in states.values()] == [
            ("FAILED", "Refused"), ("COMPLETED", "Completed"), ("FAILED", "Refused"),
        ]  # fmt: skip
        assert "prompt" in states["release second"]["message"]
        assert states["release first"]["timestamp"] > states["release second"]["timestamp"], "done after the refusal"
    finally:
        (project.root / "params.yaml").write_text(params)


def test_f8_a_mistake_is_said_once(project: LabProject, server: Server) -> None:
    done = flow(project, server, "prepare", "nowhere")
    assert done.returncode == 2
    assert "domains.nowhere: params.yaml has no such domain; it has: first, second" in done.stderr
    assert "Retrying" not in done.stdout + done.stderr


def test_f9_a_locked_database_delays_and_loses_nothing(project: LabProject, server: Server) -> None:
    """SQLite lets others wait; Prefect's client asks again what the server could not answer."""
    lock = sqlite3.connect(server.database, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    released = threading.Timer(8, lambda: (lock.execute("ROLLBACK"), lock.close()))
    released.start()
    try:
        done = flow(project, server, "prepare", "first")
    finally:
        released.join()
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = server.ask("flow_runs", flow_runs={"name": {"like_": "prepare first"}}, sort="START_TIME_DESC", limit=1)
    assert run["state"]["type"] == "COMPLETED"


def test_f7_two_trainings_take_turns(tmp_path: Path, server: Server, reproduced: LabProject) -> None:
    """Both are started at once; the second trains when the first has given the limit back."""
    projects = [reproduced.copy(tmp_path / name, ONE, trained=False) for name in ("a", "b")]
    command = (sys.executable, "-m", "pipelines", "flow", "train", "first")
    processes = [project.start(*command, **server.environment) for project in projects]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    runs = server.ask("task_runs", task_runs={"name": {"like_": "first: round"}}, sort="END_TIME_DESC", limit=8)
    by_flow: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        by_flow.setdefault(run["flow_run_id"], []).append((run["start_time"], run["end_time"]))
    (early, late) = sorted(by_flow.values(), key=min)
    assert max(end for _, end in early) <= min(start for start, _ in late)


def test_f10_a_schedule_and_an_event_start_runs(project: LabProject, server: Server) -> None:
    """`python -m pipelines deploy`: both deployments work through what is current already, which takes seconds."""
    before = channel(project)
    command = (sys.executable, "-m", "pipelines", "deploy", "--cron", "* * * * *")
    process = project.start(*command, **server.environment)
    try:
        server.wait_for("deployments", 2, deployments={"name": {"any_": ["nightly", "on-arrival"]}})
        announce = "from pipelines.deployments import announce; announce('second')"
        project.run(sys.executable, "-c", announce, **server.environment)
        done = {"state": {"type": {"any_": ["COMPLETED"]}}}
        (arrived, *_) = server.wait_for("flow_runs", deployments={"name": {"any_": ["on-arrival"]}}, flow_runs=done)
        (nightly, *_) = server.wait_for("flow_runs", deployments={"name": {"any_": ["nightly"]}}, flow_runs=done)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert arrived["parameters"]["domains"] == ["second"], said
    assert nightly["auto_scheduled"]
    assert "domains" not in nightly["parameters"]
    assert channel(project) == before


def test_f11_a_round_that_hangs_is_ended_and_tried_again(
    tmp_path: Path, server: Server, reproduced: LabProject
) -> None:
    patience = {"retries": 1, "retry_seconds": 0.1, "round_seconds": 0.05}
    project = reproduced.copy(tmp_path / "project", ONE, trained=False, flows=patience)
    done = flow(project, server, "train", "first")
    assert done.returncode == 3
    assert done.stderr.count("next_round took longer than 0.05 s and was ended") >= 1
    (run,) = server.ask("task_runs", task_runs={"name": {"like_": "first: round 0"}}, sort="END_TIME_DESC", limit=1)
    assert (run["state"]["type"], run["run_count"]) == ("FAILED", 2)
    assert not (project.root / "models" / "trained" / "first").exists()


def test_f12_bad_data_stops_the_flow_with_its_rows(tmp_path: Path, server: Server) -> None:
    """A problem file with an id twice, an answer that its own verifier refuses, and a line that is no JSON."""
    good = [{"id": f"p{i}", "question": f"digits: {i} 4 1", "answer": str(i)} for i in range(160)]
    bad = [
        {"id": "p3", "question": "digits: 9 9 9", "answer": "9"},
        {"id": "odd", "question": "how many?", "answer": "many", "verifier": "numeric"},
    ]
    domains = {"mine": {"spec": "jsonl:mine.jsonl", "source": "mine.jsonl", "start": "base"}}
    project = LabProject(tmp_path / "project", domains)
    lines = [json.dumps(row) for row in (*good, *bad)]
    (project.root / "mine.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    done = flow(project, server, "continual")
    assert done.returncode == 5
    rows = {(line, name) for name, line in re.findall(r"\b(p3|odd)\b\D+(\d+)", done.stderr)}
    assert ("162", "odd") in rows
    assert {"4", "161"} & {line for line, name in rows if name == "p3"}
    assert re.search(r"\b163\b", done.stderr)
    page = project.root / "reports" / "validation" / "mine.html"
    assert str(page.relative_to(project.root)) in done.stderr
    assert "odd" in page.read_text()
    assert not (project.root / "data" / "prepared").exists()
    (project.root / "mine.jsonl").write_text("\n".join(lines[:160]) + "\n")
    assert flow(project, server, "prepare", "mine").returncode == 0
    assert project.status().keys() & {"prepare@mine", "validate@mine"} == set()


def test_f13_a_killed_run_is_called_crashed(tmp_path: Path, server: Server) -> None:
    """After 10 s here, and after 180 s by the automation that every flow creates. A run that is alive sends a heartbeat
    every 30 s; this one is killed after its first."""
    (tmp_path / "params.yaml").write_text("{}")
    code = """
import time
from pipelines.crashed import mark_the_killed
from pipelines.flows import fst_flow, working
def sleep():
    with working("."):
        time.sleep(600)
mark_the_killed(10, "of a test")
fst_flow(name="sleeper", flow_run_name="sleeper")(sleep)()
"""
    env = environment(PYTHONPATH=str(ROOT), **server.environment)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, start_new_session=True)
    try:
        asleep = {"name": {"like_": "sleeper"}, "state": {"type": {"any_": ["RUNNING"]}}}
        (run,) = server.wait_for("flow_runs", flow_runs=asleep)
        server.wait_for_event("prefect.flow-run.heartbeat", f"prefect.flow-run.{run['id']}")
        (made,) = server.wait_for("automations", automations={"name": {"any_": ["fst: a run that was killed"]}})
        assert (made["enabled"], made["trigger"]["within"]) == (True, 180)
    finally:
        process.kill()
        process.wait()
    crashed = {"name": {"like_": "sleeper"}, "state": {"type": {"any_": ["CRASHED"]}}}
    (run,) = server.wait_for("flow_runs", flow_runs=crashed)
    assert run["state"]["message"] == "its process was killed"
