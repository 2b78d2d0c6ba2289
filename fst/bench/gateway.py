"""`fst bench gateway`: what the gateway costs over the engine alone, and whether it holds under load while releases
come and go and the engine is killed. The gateway, its engine and HTTP over the loopback are the real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fst import spans
from fst.bench.tokens import streamed
from fst.config import Params
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.errors import EngineError
from fst.models.engines.registry import load_engine
from fst.models.policy import load_policy
from fst.models.sampler import Ask
from fst.serving.worker import Worker
from fst.store.bundle import write_bundle
from fst.store.channel import Action
from fst.store.releases import Releases
from fst.traffic.load import Connection, Load, closed_loop, free_port

CLIENTS = 32
CHAT = "/v1/chat/completions"
PROMPTS = ("sort the digits from largest to smallest", "reverse the list")


@dataclass(frozen=True)
class Served:
    """A gateway that runs, in a folder of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    bundles: tuple[str, ...]
    releases: Releases


def serve(params: Params, seconds: float, minutes: float) -> Iterator[str]:
    """Lines: added latency, throughput, times of tokens in streams, what spans and metrics cost where the environment
    asks for them, then the soak (0 minutes: none)."""
    questions = [p.question for p in load_domain("lab/sort_desc", SplitSizes(256, 1, 1), 0).train]
    yield from asyncio.run(_compare(params, questions, seconds))
    if spans.asked("TRACES") or spans.asked("METRICS"):
        yield asyncio.run(_sending(params, questions, seconds))
    if minutes:
        with _gateway(params, {}) as served:
            yield from asyncio.run(_soak(served, questions, 60 * minutes))


# -- the gateway against the engine alone --------------------------------------------------------------------


async def _compare(params: Params, questions: list[str], seconds: float) -> list[str]:
    model = params.model
    worker = Worker(partial(load_engine, params))
    await worker.start()
    policy = load_policy(model)
    asks = [
        Ask(tuple(ids), None, model.max_new_tokens, 1.0, i)
        for i, ids in enumerate(policy.encode([policy.messages(PROMPTS[0], q) for q in questions]))
    ]
    direct, through = [], []
    try:
        with _gateway(params, {}) as served:
            for block in range(4):
                alone = (
                    await _engine_alone(worker, asks, 1, seconds),
                    await _engine_alone(worker, asks, CLIENTS, seconds),
                )
                over = (
                    await _over_http(served, questions, 1, seconds),
                    await _over_http(served, questions, CLIENTS, seconds),
                )
                if block:  # the first warms up
                    direct.append(alone)
                    through.append(over)
            bodies = [_body(question) for question in questions]
            streams = [await streamed(served.port, CHAT, bodies, clients, seconds) for clients in (1, CLIENTS)]
    finally:
        worker.close()
    own, gateway = (statistics.median(1000 * one.quantile(0.5) for one, _ in runs) for runs in (direct, through))
    rate, served_rate = (statistics.median(many.rate for _, many in runs) for runs in (direct, through))
    return [
        f"one client: p50 {own:.1f} ms by the engine alone, {gateway:.1f} ms through the gateway: "
        f"{gateway - own:+.1f} ms (target: at most 5)",
        f"{CLIENTS} clients: {rate:.0f} requests/s by the engine alone, {served_rate:.0f} through the gateway: "
        f"ratio {served_rate / rate:.2f} (target: at least 0.95)",
        *(
            f"{clients} streaming client{'s' if clients > 1 else ''}: {found.says}"
            for clients, found in zip((1, CLIENTS), streams, strict=True)
        ),
    ]


async def _engine_alone(worker: Worker, asks: list[Ask], clients: int, seconds: float) -> Load:
    turns = iter(range(10**9))

    async def call() -> int:
        await worker.generate(asks[next(turns) % len(asks)])
        return 200

    return await closed_loop([call] * clients, seconds)


async def _over_http(served: Served, questions: list[str], clients: int, seconds: float) -> Load:
    connections = [Connection("127.0.0.1", served.port) for _ in range(clients)]
    turns = iter(range(10**9))

    def caller(connection: Connection) -> Any:
        async def call() -> int:
            status, _ = await connection.post(CHAT, _body(questions[next(turns) % len(questions)]))
            return status

        return call

    load = await closed_loop([caller(connection) for connection in connections], seconds)
    for connection in connections:
        await connection.close()
    return load


async def _sending(params: Params, questions: list[str], seconds: float) -> str:
    """A gateway that sends spans and metrics in turns with one that sends none."""
    rates: tuple[list[float], list[float]] = ([], [])
    with _gateway(params, {}) as sending, _gateway(params, {}, OTEL_SDK_DISABLED="true") as silent:
        for block in range(4):
            for served, found in zip((sending, silent), rates, strict=True):
                load = await _over_http(served, questions, CLIENTS, seconds)
                if block:  # the first warms up
                    found.append(load.rate)
    rate, without = map(statistics.median, rates)
    return (
        f"{CLIENTS} clients: {rate:.0f} requests/s with spans and metrics, {without:.0f} without: {rate / without:.2f}"
    )


def _body(question: str) -> dict[str, Any]:
    return {"model": "fst/digits", "messages": [{"role": "user", "content": question}]}


# -- the soak ------------------------------------------------------------------------------------------------


async def _soak(served: Served, questions: list[str], seconds: float) -> list[str]:
    """Load, with a release or a rollback every ten seconds and a killed engine every forty."""
    wrong: list[str] = []
    statuses: dict[int, int] = {}
    stop = time.monotonic() + seconds
    memory: list[float] = []

    async def client() -> None:
        connection = Connection("127.0.0.1", served.port)
        turn = 0
        while time.monotonic() < stop:
            turn += 1
            try:
                status, body = await connection.post(CHAT, _body(questions[turn % len(questions)]))
            except (OSError, EOFError, ValueError) as exc:
                wrong.append(f"no answer: {type(exc).__name__}")
                continue
            statuses[status] = statuses.get(status, 0) + 1
            if not _is_clean(status, body):
                wrong.append(f"{status}: {body[:80]!r}")
            if status != 200:
                await asyncio.sleep(0.2)
        await connection.close()

    async def trouble() -> None:
        moves = kills = 0
        while time.monotonic() < stop:
            await asyncio.sleep(10)
            memory.append(_megabytes(served.process.pid))
            channel = served.releases.channel("prod")
            target = served.bundles[moves % 2]
            action: Action = "release" if moves % 3 else "rollback"
            with contextlib.suppress(Exception):
                await asyncio.to_thread(served.releases.move, channel, target, action, "bench")
            moves += 1
            if moves % 4 == 2 and (engine := _engine(served.process.pid)):
                os.kill(engine, signal.SIGKILL)
                kills += 1
        wrong.extend([] if served.process.poll() is None else ["the gateway ended"])
        statuses[-1], statuses[-2] = moves, kills

    await asyncio.gather(trouble(), *(client() for _ in range(CLIENTS)))
    moves, kills = statuses.pop(-1), statuses.pop(-2)
    half = memory[len(memory) // 2 :] or [0.0]
    return [
        f"{seconds / 60:g} minutes of {CLIENTS} clients, {moves} releases and rollbacks, {kills} engines killed: "
        f"{sum(statuses.values())} answers, by status {dict(sorted(statuses.items()))}; {len(wrong)} not clean"
        + (f", first: {wrong[0]}" if wrong else ""),
        f"memory of the gateway's own process: {memory[0] if memory else 0:.0f} MB after ten seconds, "
        f"{half[0]:.0f} MB half-way, {half[-1]:.0f} MB at the end",
    ]


def _is_clean(status: int, body: bytes) -> bool:
    """A whole completion, or an error in its form."""
    try:
        values = json.loads(body)
        if status == 200:
            return isinstance(values["choices"][0]["message"]["content"], str)
        return 400 <= status < 600 and bool(values["error"]["message"])
    except (ValueError, KeyError, IndexError, TypeError):
        return False


def _engine(pid: int) -> int | None:
    """The engine's process, a child of the gateway."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
            if int(fields[1]) == pid and b"spawn_main" in command:
                return int(stat.parent.name)
    return None


def _megabytes(pid: int) -> float:
    """Resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


# -- a gateway of its own ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _gateway(params: Params, serve: dict[str, Any], **environment: str) -> Iterator[Served]:
    """`fst serve` in a new folder and with this in its environment, with two releases to move between. Raises
    EngineError when it does not come up."""
    with tempfile.TemporaryDirectory(prefix="fst-bench-") as name:
        folder, port = Path(name), free_port()
        values = {
            "model": {"base": params.model.base, "max_new_tokens": params.model.max_new_tokens},
            "serve": {"port": port, "poll_seconds": 0.2, **serve},
        }
        (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        releases = Releases.open(type(params.store)(url=str(folder / "models" / "releases")))
        bundles = tuple(_release(releases, folder / f"b{i}", text) for i, text in enumerate(PROMPTS))
        with (folder / "log").open("wb") as log:
            command = (sys.executable, "-P", "-m", "fst.cli", "serve")
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})
            try:
                _wait(port, process, folder / "log")
                yield Served(folder, port, process, bundles, releases)
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):  # one that is still starting takes no notice
                    process.wait(30)
                process.kill()


def _release(releases: Releases, folder: Path, prompt: str) -> str:
    """A release of one domain with this prompt, on the channel."""
    manifest = {
        "schema": 1,
        "base": {"name": "lab", "sha256": ""},
        "start": None,
        "domains": {"digits": {"spec": "lab/sort_desc", "data_sha256": "", "prompt": ""}},
        "run": {"domain": "digits"},
        "metrics": {},
        "params": {"loop": {"seed_prompt": "solve the task"}},
        "candidate": None,
        "gate": None,
    }
    prompts = {"digits": {"prompts": [{"id": "p", "text": prompt}], "ancestry": []}}
    bundle = write_bundle(folder, manifest, {"prompts.json": prompts, "evaluation.json": {}}, None)
    bundle_id = releases.publish(bundle.folder)
    releases.move(releases.channel("prod"), bundle_id, "release", "bench")
    return bundle_id


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{port}/healthz", timeout=2):
            return
        if process.poll() is not None or time.monotonic() > until:
            raise EngineError(f"the gateway did not come up:\n{log.read_text(errors='replace')[-800:]}")
        time.sleep(0.2)
