"""Replays a traffic scenario at a gateway: sends requests at their times and feedback after them, and records all of
it.

Every exchange is a line of the record: {"at" (s since the epoch), "moment" (s since the start), "phase", "domain" (the
true one), "status", "reward", "release", "served_as", "told", "seconds"}. The reward comes from the domain's verifier.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from fst.traffic.scenario import Arrival, Scenario

PATH = "/v1/chat/completions"
IN_FLIGHT = 100  # requests at once


@dataclass(frozen=True)
class Exchanged:
    """One request and its answer. `status` is the HTTP status, 0 if the gateway did not answer."""

    at: float
    moment: float
    phase: int
    domain: str
    status: int
    reward: float
    release: str
    served_as: str
    told: bool
    seconds: float


@dataclass(frozen=True)
class Target:
    """The gateway: its URL, a key if it requires one, and the time limit of a request."""

    url: str
    key: str = ""
    timeout_seconds: float = 60.0

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


async def replay(
    scenario: Scenario,
    target: Target,
    heard: Callable[[Exchanged], None],
    stop: threading.Event | None = None,
) -> None:
    """Send the requests of a scenario at their times, until `stop` is set; `heard` is called with every exchange.

    At most IN_FLIGHT requests wait for an answer at once. If the gateway falls behind, the others are sent later, since
    requests that time out would only keep it busy.
    """
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    free = asyncio.Semaphore(IN_FLIGHT)
    settings: dict[str, Any] = {"base_url": target.url, "headers": target.headers, "trust_env": False}
    async with httpx.AsyncClient(**settings, timeout=target.timeout_seconds, limits=limits) as client:
        arrivals = list(scenario.arrivals())  # drawn before the clock starts
        started = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        for arrival in arrivals:
            while (wait := arrival.moment - (time.monotonic() - started)) > 0 and not (stop and stop.is_set()):
                await asyncio.sleep(min(wait, 0.25))
            await free.acquire()
            if stop and stop.is_set():
                break
            task = asyncio.create_task(_exchange(client, scenario, arrival, heard))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: free.release())
        await asyncio.gather(*tasks)


async def _exchange(
    client: httpx.AsyncClient, scenario: Scenario, arrival: Arrival, heard: Callable[[Exchanged], None]
) -> None:
    named = scenario.domains[arrival.domain].named
    body = {"model": "fst", "messages": [{"role": "user", "content": arrival.problem.question}]}
    started, at = time.monotonic(), time.time()
    status, text, headers = 0, "", httpx.Headers()
    with contextlib.suppress(httpx.HTTPError):
        answer = await client.post(PATH, json=body, headers={"X-FST-Domain": arrival.domain} if named else {})
        status, headers = answer.status_code, answer.headers
        if status == 200:
            text = answer.json()["choices"][0]["message"]["content"]
    seconds = time.monotonic() - started
    reward = arrival.verify(arrival.problem, text).reward if status == 200 else 0.0
    if arrival.told and status == 200:
        said = {"id": headers["X-FST-Response-Id"], "answer": arrival.problem.answer}
        with contextlib.suppress(httpx.HTTPError):
            await client.post("/v1/feedback", json=said)
    release, served_as = headers.get("X-FST-Release", ""), headers.get("X-FST-Domain", "")
    told = arrival.told and status == 200
    heard(
        Exchanged(at, arrival.moment, arrival.phase, arrival.domain, status, reward, release, served_as, told, seconds)
    )


class Recorder:
    """Writes exchanges as JSON lines, and keeps them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self.exchanges: list[Exchanged] = []

    def __call__(self, exchanged: Exchanged) -> None:
        self.exchanges.append(exchanged)
        self._file.write(json.dumps(asdict(exchanged)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def summary(exchanges: Iterable[Exchanged]) -> dict[str, Mapping[str, float]]:
    """Summarise by phase and domain: requests, failed ones, mean reward, median and 95th percentile of the seconds."""
    groups: dict[str, list[Exchanged]] = {}
    for one in exchanges:
        groups.setdefault(f"phase {one.phase}: {one.domain}", []).append(one)
    table: dict[str, Mapping[str, float]] = {}
    for name, group in sorted(groups.items()):
        seconds = sorted(one.seconds for one in group)
        table[name] = {
            "requests": len(group),
            "failed": sum(one.status != 200 for one in group),
            "reward": sum(one.reward for one in group) / len(group),
            "p50_s": seconds[len(seconds) // 2],
            "p95_s": seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
        }
    return table


def summary_table(exchanges: Iterable[Exchanged]) -> Table:
    """Format the summary for the terminal; latencies are in milliseconds."""
    table = Table("traffic", "requests", "failed", "reward", "p50, ms", "p95, ms")
    for name, row in summary(exchanges).items():
        latency = (f"{1000 * row[key]:.0f}" for key in ("p50_s", "p95_s"))
        table.add_row(name, f"{row['requests']:.0f}", f"{row['failed']:.0f}", f"{row['reward']:.3f}", *latency)
    return table
