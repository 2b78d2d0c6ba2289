"""A real Prefect server with a database of its own, and what tests ask it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

PATIENCE_S = 300.0  # a busy machine takes minutes to start a server


class Server:
    def __init__(self, home: Path, port: int) -> None:
        self.home, self.url = home, f"http://127.0.0.1:{port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.url}

    @property
    def database(self) -> Path:
        return self.home / "prefect.db"

    def ask(self, what: str, **body: Any) -> list[dict[str, Any]]:
        """All objects of a kind (`flow_runs`, `task_runs`, `artifacts` ...) that a filter names."""
        answer = httpx.post(f"{self.url}/{what}/filter", json=body, timeout=30)
        answer.raise_for_status()
        return list(answer.json())

    def wait_for(self, what: str, count: int = 1, **body: Any) -> list[dict[str, Any]]:
        """As `ask`, once there are that many."""
        until = time.monotonic() + PATIENCE_S
        while len(found := self.ask(what, **body)) < count:
            if time.monotonic() > until:
                raise AssertionError(f"{len(found)} of {count} {what} after {PATIENCE_S:g} s: {body}")
            time.sleep(0.5)
        return found

    def wait_for_event(self, event: str, resource: str) -> None:
        """Until the server has an event of that name about a resource."""
        until = time.monotonic() + PATIENCE_S
        wanted = {"filter": {"event": {"name": [event]}, "resource": {"id": [resource]}}}
        while not httpx.post(f"{self.url}/events/filter", json=wanted, timeout=30).raise_for_status().json()["events"]:
            if time.monotonic() > until:
                raise AssertionError(f"no {event} of {resource} after {PATIENCE_S:g} s")
            time.sleep(0.5)


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[Server]:
    """Start `prefect server start` and wait until it is healthy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(home, port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
    with (home.parent / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            until = time.monotonic() + PATIENCE_S
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                        break
                if time.monotonic() > until or process.poll() is not None:
                    raise AssertionError((home.parent / "server.log").read_text())
                time.sleep(0.3)
            yield server
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
