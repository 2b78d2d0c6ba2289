"""What the commands of the gateway do, one function a command."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fst.cli.options import read_params
from fst.config import Params
from fst.errors import ConfigError

if TYPE_CHECKING:
    from fst.serving.app import Gateway
    from fst.traffic.log import Redactor

REDACTORS = "fst.redactors"


def serve(options: argparse.Namespace) -> None:
    """The gateway, until it is stopped."""
    import uvicorn

    from fst.monitoring.dashboard import dashboard_routes
    from fst.stages.places import Places

    params, places = read_params(options), Places()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    gateway = build(params, places.fetched, options.channel or params.store.channel)
    pages = dashboard_routes(params, places, gateway.state, partial(allowed, gateway))
    config = uvicorn.Config(
        gateway.app(pages),
        host=params.serve.host,
        port=params.serve.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(params.serve.drain_seconds) or 1,
        h11_max_incomplete_event_size=65_536,
    )
    print(f"http://{params.serve.host}:{params.serve.port}/ serves channel {gateway.live.channel}", flush=True)
    uvicorn.Server(config).run()


def build(params: Params, fetched: Any, channel: str) -> Gateway:
    """A gateway of parameters. Raises ConfigError for keys that are missing where they are needed."""
    from fst.models.engines.registry import load_with_engine
    from fst.models.policy import load_reader
    from fst.serving.answering import Answering
    from fst.serving.app import Gateway
    from fst.serving.encode import Encoder
    from fst.serving.feedback import Responses
    from fst.serving.keys import Keys
    from fst.serving.live import Live
    from fst.serving.metrics import Metrics
    from fst.serving.threads import Threads
    from fst.serving.worker import TransformersFactory, Worker
    from fst.store.releases import Releases
    from fst.traffic.log import LogLimits, TrafficLog

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keys = Keys(Path(params.serve.keys) if params.serve.keys else None)
    if keys.open and not _loopback(params.serve.host):
        raise ConfigError(
            f"serve.keys: without a key file only loopback is served, not {params.serve.host}; "
            "make one with `fst keys add NAME`"
        )
    reader = load_reader(params.model.base)
    traffic = params.traffic
    limits = LogLimits(traffic.segment_bytes, traffic.segment_seconds, traffic.retention_days * 86400)
    responses = Responses.of_log(Path(traffic.folder))
    model = params.model
    if model.engine == "vllm":
        worker: Worker | Threads = Threads(lambda: load_with_engine(model, params.vllm, params.slow.lora_rank).engine)
    else:
        worker = Worker(TransformersFactory(model.base, model.max_new_tokens, model.dtype, model.threads))
    live = Live(Releases.open(params.store), worker, params.serve, channel)
    live.folder = fetched
    log = TrafficLog(Path(traffic.folder), limits, _redactor(traffic.redact))
    answering = Answering(live, worker, Encoder(reader), log, responses, Metrics())
    return Gateway(answering, params.serve, keys, params.model.max_new_tokens)


def allowed(gateway: Gateway, request: Any) -> bool:
    """Whether somebody may read the page's data."""
    return gateway.keys.caller(request.headers.get("authorization", "")) is not None


def keys_add(options: argparse.Namespace) -> None:
    """A new key."""
    from fst.serving.keys import add_key

    params = read_params(options)
    file = options.file or Path(params.serve.keys or "keys.json")
    key = add_key(file, options.tenant, "admin" if options.admin else "user")
    print(key)
    if str(file) != params.serve.keys:
        print(f"put `keys: {file}` under `serve` in params.yaml, or say --set serve.keys={file}")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _redactor(name: str) -> Redactor | None:
    """The entry point that traffic.redact names. Raises ConfigError."""
    if not name:
        return None
    for point in entry_points(group=REDACTORS):
        if point.name == name:
            redact: Redactor = point.load()
            return redact
    known = ", ".join(point.name for point in entry_points(group=REDACTORS)) or "none"
    raise ConfigError(f"traffic.redact: no entry point {name!r} of the group {REDACTORS}; installed: {known}")


def bench_serve(options: argparse.Namespace) -> None:
    """The gateway against the engine alone."""
    from fst.bench.gateway import serve

    for line in serve(read_params(options), options.seconds, options.minutes):
        print(line, flush=True)


def bench_rollouts(options: argparse.Namespace) -> None:
    """The engine against model.generate."""
    from fst.bench.rollouts import rollouts

    for line in rollouts(read_params(options), options.blocks):
        print(line, flush=True)
