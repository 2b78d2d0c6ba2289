"""The closed loop on one machine: a gateway serves traffic, a new domain appears, the watcher raises an alert, Prefect
starts an adaptation, the gate passes it, the gateway swaps it in. The time line of it all is written to reports/live/.

    a Prefect server, `python -m pipelines deploy`    what alerts start; the server has a database of its own
    `fst serve`                                       the gateway, on a channel of its own
    `python -m pipelines monitor`                     drift, alerts
    the scenario                                      sent from here
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fst.errors import ConfigError, FstError
from fst.files import document, write_atomic
from fst.lines import append_line, read_lines
from fst.monitoring.outbox import ADAPTATIONS, ALERTS, open_alerts
from fst.store.releases import Releases
from fst.traffic.load import free_port
from fst.traffic.scenario import Scenario, load_scenario
from fst.traffic.simulate import Exchanged, Recorder, Target, replay
from fst.traffic.timeline import as_dict, bin_width, bins, figures, happenings, shortfall
from pipelines.background import beside, until
from pipelines.project import Project
from pipelines.server import answers, local

CHANNEL = "live"
START_SECONDS = 180.0
PATIENCE_SECONDS = 600.0  # of traffic in which the newcomer's release may come; a busy machine needs them
AFTERWARDS = 120  # requests of the newcomer under the new release, then the traffic ends


class NotRecovered(FstError):
    """The closed loop ended, and the new domain is not served as it could be; the message says how far it came."""

    exit_code = 9


@dataclass(frozen=True)
class Live:
    """A closed loop. `domain` is the domain of params.yaml whose release the channel begins with."""

    root: Path
    scenario: Path
    domain: str

    @property
    def out(self) -> Path:
        return self.root / "reports" / "live"

    def run(self) -> dict[str, Any]:
        """Run the loop. Returns the time line, which is also written to reports/live/timeline.json. Raises NotRecovered
        where the new domain is not served well in the end."""
        scenario = load_scenario(self.scenario).prolonged(PATIENCE_SECONDS)
        shutil.rmtree(self.out, ignore_errors=True)
        scenario = replace(scenario, seed=scenario.seed + self._begin())
        with self._loop() as url:
            attainable = self._attainable(scenario)
            recorder = Recorder(self.out / "traffic.jsonl")
            began = time.time()
            asyncio.run(self._send(scenario, Target(url), recorder))
            recorder.close()
        timeline = self._account(scenario, began, recorder.exchanges, attainable)
        if not timeline["figures"].get("recovered"):
            raise NotRecovered(f"the closed loop did not recover: {shortfall(timeline)}; see {self.out}/logs")
        return timeline

    # -- parts ------------------------------------------------------------------------------------------

    def _begin(self) -> int:
        """Point the channel at a release that serves `domain` alone, and forget the traffic and the alerts of the time
        before. Returns how often the channel moved before: the loop's questions are others each time, since a
        candidate that was rolled back once, as it is here, is not released again."""
        project = Project(str(self.root))
        releases = Releases.open(project.params.store)
        own = [entry.bundle for entry in releases.channel(CHANNEL).history]
        mine = [b for b in own if (releases.manifest(b)["run"] or {}).get("domain") == self.domain]
        if not mine:
            self._fst("release", self.domain, "--channel", CHANNEL)
        elif releases.channel(CHANNEL).bundle != mine[0]:
            self._fst("rollback", "--channel", CHANNEL, "--to", mine[0], "--reason", "the closed loop begins again")
        folder = project.places.monitoring
        (folder / f"state-{CHANNEL}.json").unlink(missing_ok=True)
        for alert in open_alerts(folder, CHANNEL):
            head = {"alert": alert["at"], "domain": alert["domain"], "channel": CHANNEL}
            append_line(folder / ADAPTATIONS, {"at": time.time(), **head, "event": "skipped"})
        return len(own)

    def _fst(self, *arguments: str) -> None:
        done = subprocess.run(
            (sys.executable, "-m", "fst.cli", *arguments), cwd=self.root, capture_output=True, text=True
        )
        if done.returncode:
            raise ConfigError(f"`fst {' '.join(arguments)}`: {done.stderr.strip()}")

    @contextlib.contextmanager
    def _loop(self) -> Iterator[str]:
        """Start everything that serves, watches and adapts; yields the gateway's URL when all of it is ready."""
        python, port = sys.executable, free_port()
        with contextlib.ExitStack() as stack:

            def start(name: str, *command: str, **environment: str) -> tuple[subprocess.Popen[bytes], Path]:
                log = self.out / "logs" / f"{name}.log"
                return stack.enter_context(beside(command, environment, log, self.root)), log

            url = f"http://127.0.0.1:{port}"
            options = ("--set", f"serve.port={port}", "--channel", CHANNEL)
            gateway = start("gateway", python, "-m", "fst.cli", "serve", *options)
            api = os.environ.get("PREFECT_API_URL")
            if not api:
                home = free_port()
                api = f"http://127.0.0.1:{home}/api"
                server = start(
                    "prefect", python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(home),
                    PREFECT_HOME=str(self.out / "prefect"),
                )  # fmt: skip
                until(lambda: answers(api), *server, START_SECONDS)
            flows = start("flows", python, "-m", "pipelines", "deploy", PREFECT_API_URL=api, PYTHONUNBUFFERED="1")
            until(lambda: b"on-alert" in flows[1].read_bytes(), *flows, START_SECONDS)
            until(lambda: bool(local(f"{url}/healthz")), *gateway, START_SECONDS)
            watcher = start(
                "watcher", python, "-m", "pipelines", "monitor", "--channel", CHANNEL, PREFECT_API_URL=api,
                PYTHONUNBUFFERED="1",
            )  # fmt: skip
            until(lambda: b"watching" in watcher[1].read_bytes(), *watcher, START_SECONDS)
            yield url

    def _attainable(self, scenario: Scenario) -> float:
        """The reward that prompts alone can reach on the new domain: that of the rule in plain words, under the weights
        that are served. A child process measures it, so that nothing that learns sees the words."""
        newcomer = scenario.domains[self._newcomer(scenario)]
        arguments = f"{CHANNEL!r}, {newcomer.spec!r}, {newcomer.instruction!r}"
        code = f"from fst.release.attainable import attainable; print(attainable({arguments}))"
        done = subprocess.run((sys.executable, "-c", code), cwd=self.root, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(f"what is attainable could not be measured: {done.stderr.strip().splitlines()[-1]}")
        return float(done.stdout.split()[-1])

    @staticmethod
    def _newcomer(scenario: Scenario) -> str:
        """The name of the domain that appears after the first phase."""
        late = [name for name in scenario.domains if name not in scenario.phases[0].mix]
        if not late:
            raise ConfigError("the scenario has no domain that appears after its first phase")
        return late[0]

    async def _send(self, scenario: Scenario, target: Target, recorder: Recorder) -> None:
        from rich.progress import Progress

        stop, newcomer = threading.Event(), self._newcomer(scenario)
        with Progress() as progress:
            bar = progress.add_task("live traffic", total=None)
            first, under_new = "", 0

            def heard(one: Exchanged) -> None:
                nonlocal first, under_new
                recorder(one)
                first = first or one.release
                under_new += one.domain == newcomer and bool(one.release) and one.release != first
                progress.update(bar, completed=one.moment, description=f"live traffic, release {one.release[:8]}")
                if under_new >= AFTERWARDS:
                    stop.set()

            await replay(scenario, target, heard, stop)

    def _account(
        self, scenario: Scenario, began: float, exchanges: list[Exchanged], attainable: float
    ) -> dict[str, Any]:
        places, newcomer = Project(str(self.root)).places, self._newcomer(scenario)
        alerts, steps = (
            [
                line
                for line in read_lines(places.monitoring / name)
                if line["channel"] == CHANNEL and line["at"] >= began
            ]
            for name in (ALERTS, ADAPTATIONS)
        )
        events = happenings(began, exchanges, alerts, steps)
        timeline = {
            "scenario": self.scenario.name,
            "channel": CHANNEL,
            "began": began,
            "newcomer": newcomer,
            "events": as_dict(events),
            "bin_seconds": (width := bin_width(began, exchanges)),
            "bins": bins(began, exchanges, width),
            "figures": figures(exchanges, newcomer, events, began, attainable),
        }
        write_atomic(self.out / "timeline.json", document(timeline))
        return timeline
