"""From an alert to a run, with the two commands as they are documented and no server named. A1 an alert that is raised
while no Prefect server is there, by a watcher that is killed before anybody heard of it, is answered once both commands
run; A2 both use one server, which `deploy` starts; A3 SIGTERM to `deploy` leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fst.monitoring.outbox import ADAPTATIONS, ALERTS, open_alerts
from fst.traffic.load import free_port
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from support.lab_project import DOMAINS, LabProject, alive, descendants, wait_until

pytestmark = pytest.mark.slow


def strangers(project: LabProject, count: int) -> None:
    """Requests of a domain that no release serves, with their right answers."""
    channel = json.loads((project.root / "models" / "releases" / "channels" / "prod.json").read_text())
    log = TrafficLog(project.root / "traffic", LogLimits())
    for number in range(count):
        question = f"please translate {number} to french"
        facts = (0.95, channel["bundle"], "production", "p", question, "a", (9, 6), 0.1, "stop", 200)
        log.append(Request(f"s{number}", time.time(), "t", "", "unknown", *facts))  # type: ignore[arg-type]
        log.append(Feedback(f"s{number}", time.time(), "t", 0.0, "le", "", "client"))
    log.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a1_a2_a3_an_alert_waits_for_the_run(tmp_path: Path, reproduced: LabProject) -> None:
    adapt = {"min_problems": 80, "wait_seconds": 0.0}
    drift = {"resamples": 50, "poll_seconds": 0.2}
    project = reproduced.copy(tmp_path / "project", {"first": DOMAINS["first"]}, adapt=adapt, drift=drift)
    project.run("fst", "release", "first")
    folder, port = project.root / "reports" / "monitoring", free_port()
    place = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_API_PORT": str(port), "PREFECT_API_URL": ""}
    monitor = (sys.executable, "-m", "pipelines", "monitor")
    watcher = project.start(*monitor, **place)
    try:
        wait_until((folder / "state-prod.json").exists, 120, "the watcher has not begun")
        strangers(project, 12)
        wait_until((folder / ALERTS).exists, 60, "no alert was raised")
    finally:
        watcher.kill()
        watcher.communicate()
    (alert,) = open_alerts(folder)
    assert alert["domain"] == "french"
    both = [project.start(*command, **place) for command in ((*monitor[:-1], "deploy"), monitor)]
    try:
        wait_until(lambda: len(lines(folder / ADAPTATIONS)) == 2, 240, "no adaptation began and ended")
        family = descendants(both[0].pid)
        os.kill(both[0].pid, signal.SIGTERM)
        said, _ = both[0].communicate(timeout=60)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    steps = lines(folder / ADAPTATIONS)
    assert [(step["event"], step["alert"]) for step in steps] == [("started", alert["at"]), ("failed", alert["at"])]
    assert "french: 12 questions with one right answer" in steps[1]["error"]
    assert open_alerts(folder) == []
    assert f"Prefect server: http://127.0.0.1:{port}/api (started; ends with this command)" in said
    assert len(family) >= 2, "the server is a child of it"
    wait_until(lambda: not any(map(alive, family)), 30, "a process of the ended command lives on")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is gone"
