"""From an alert to a run, with the two commands as they are documented and no server named. A1 an alert that is raised
while no Prefect server is there, by a watcher that is killed before anybody heard of it, is answered once both commands
run; A2 both use one server, which `deploy` starts; A3 SIGTERM to `deploy` leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fst.monitoring.outbox import ADAPTATIONS, ALERTS, open_alerts
from fst.traffic.load import free_port
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from support.gateway_toys import REVERSE, Place
from support.lab_project import ROOT, alive, descendants, environment, wait_until

pytestmark = pytest.mark.slow
PATIENCE_S = 600.0  # every command imports Prefect, which takes minutes on a busy machine


def strangers(place: Place, release: str, count: int) -> None:
    """Requests of a domain that no release serves, with their right answers."""
    log = TrafficLog(place.root / "traffic", LogLimits())
    for number in range(count):
        question = f"please translate {number} to french"
        facts = (0.95, release, "production", "p", question, "a", (9, 6), 0.1, "stop", 200)
        log.append(Request(f"s{number}", time.time(), "t", "", "unknown", *facts))  # type: ignore[arg-type]
        log.append(Feedback(f"s{number}", time.time(), "t", 0.0, "le", "", "client"))
    log.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "project")
    place.root.mkdir()
    drift = {"resamples": 50, "poll_seconds": 0.2}
    params = place.params(adapt={"min_problems": 80, "wait_seconds": 0.0}, drift=drift)
    (place.root / "params.yaml").write_text(yaml.safe_dump(params.as_dict()), encoding="utf-8")
    return place


def test_a1_a2_a3_an_alert_waits_for_the_run(place: Place, tmp_path: Path) -> None:
    release = place.release(place.bundle("first", {"digits": [REVERSE]}))
    folder, port = place.root / "reports" / "monitoring", free_port()
    home = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_API_PORT": str(port), "PREFECT_API_URL": ""}

    def start(command: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{command}.log").open("ab") as log:
            return subprocess.Popen(
                (sys.executable, "-P", "-m", "pipelines", command),
                cwd=place.root,
                env=environment(PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1", **home),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    watcher = start("monitor")
    try:
        wait_until((folder / "state-prod.json").exists, PATIENCE_S, "the watcher has not begun")
        strangers(place, release, 12)
        wait_until((folder / ALERTS).exists, PATIENCE_S, "no alert was raised")
    finally:
        watcher.kill()
        watcher.wait()
    (alert,) = open_alerts(folder)
    assert alert["domain"] == "french"
    both = [start(command) for command in ("deploy", "monitor")]
    log = tmp_path / "deploy.log"
    try:
        wait_until(lambda: bool(lines(folder / ADAPTATIONS)), PATIENCE_S, f"no adaptation began, see {log}")
        family = descendants(both[0].pid)
        os.kill(both[0].pid, signal.SIGTERM)
        both[0].wait(PATIENCE_S)
    finally:
        for process in both:
            process.kill()
            process.wait()
    begun = lines(folder / ADAPTATIONS)[0]
    assert (begun["event"], begun["domain"], begun["alert"]) == ("started", "french", alert["at"])
    assert open_alerts(folder) == []
    address = f"Prefect server: http://127.0.0.1:{port}/api"
    assert f"{address} (started; ends with this command)" in log.read_text()
    assert f"{address} (found; PREFECT_API_URL names another)" in (tmp_path / "monitor.log").read_text()
    assert len(family) >= 2, "the server, and the run"
    wait_until(lambda: not any(map(alive, family)), 30, "a process of the ended command lives on")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is gone"
