"""Builds a gateway from parameters (engine, releases, keys, traffic log) and runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.routing import BaseRoute

from fst.config import Params
from fst.errors import ConfigError
from fst.models.engines.registry import engine_class, load_engine
from fst.models.reader import load_reader
from fst.serving.answering import Answering
from fst.serving.app import Gateway
from fst.serving.door import is_loopback
from fst.serving.encode import Encoder
from fst.serving.feedback import Responses
from fst.serving.keys import Keys
from fst.serving.live import Live
from fst.serving.metrics import Metrics
from fst.serving.threads import Threads
from fst.serving.worker import Worker
from fst.store.releases import Releases
from fst.traffic.log import LogLimits, Redactor, TrafficLog

REDACTORS = "fst.redactors"
DAY_SECONDS = 86_400


def build(params: Params, fetched: Callable[[str], Path], channel: str) -> Gateway:
    """Build the gateway of a channel; `fetched` maps a bundle's id to the folder that it is fetched into. Raises
    ConfigError for an address other than loopback without a key file, and for an unknown redactor."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keys = Keys(Path(params.serve.keys) if params.serve.keys else None)
    if keys.open and not is_loopback(params.serve.host):
        raise ConfigError(
            f"serve.keys: without a key file only loopback is served, not {params.serve.host}; "
            "make one with `fst keys add NAME`"
        )
    model, traffic = params.model, params.traffic
    reader = load_reader(model)
    limits = LogLimits(traffic.segment_bytes, traffic.segment_seconds, traffic.retention_days * DAY_SECONDS)
    responses = Responses.of_log(Path(traffic.folder))
    kind = Threads if engine_class(model.engine).concurrent else Worker
    worker: Worker | Threads = kind(partial(load_engine, params))
    live = Live(Releases.open(params.store), worker, params.serve, channel)
    live.folder = fetched
    log = TrafficLog(Path(traffic.folder), limits, _redactor(traffic.redact))
    answering = Answering(live, worker, Encoder(reader), log, responses, Metrics())
    return Gateway(answering, params.serve, keys, model.max_new_tokens)


def allowed(gateway: Gateway, request: Request) -> bool:
    """Whether the request's key is known, so that its sender may read the page's data."""
    return gateway.keys.caller(request.headers.get("authorization", "")) is not None


def run(gateway: Gateway, pages: Sequence[BaseRoute]) -> None:
    """Serve the gateway and its pages at `serve.host` and `serve.port` until the process is stopped."""
    serve = gateway.params
    config = uvicorn.Config(
        gateway.app(pages),
        host=serve.host,
        port=serve.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(serve.drain_seconds) or 1,
        h11_max_incomplete_event_size=65_536,
    )
    print(f"http://{serve.host}:{serve.port}/ serves channel {gateway.live.channel}", flush=True)
    uvicorn.Server(config).run()


def _redactor(name: str) -> Redactor | None:
    """Load the entry point that traffic.redact names; None for an empty name. Raises ConfigError if it is not
    installed."""
    if not name:
        return None
    for point in entry_points(group=REDACTORS):
        if point.name == name:
            redact: Redactor = point.load()
            return redact
    known = ", ".join(point.name for point in entry_points(group=REDACTORS)) or "none"
    raise ConfigError(f"traffic.redact: no entry point {name!r} of the group {REDACTORS}; installed: {known}")
