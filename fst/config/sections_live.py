"""The sections of params.yaml that are about serving, watching and adapting. As in fst/config/sections.py, every
field's default is what the file ships; seconds, shares and counts are named so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def _bounded(default: Any, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class VllmParams:
    """The vLLM server, where model.engine is `vllm`. `url` is one that runs already; without it, one is started with
    `python` (an environment that has vLLM: `make vllm`) and stopped with the process that asked."""

    url: str = ""
    python: str = ".venv-vllm/bin/python"
    api_key_env: str = "VLLM_API_KEY"
    start_seconds: float = _bounded(300.0, 1)
    timeout_seconds: float = _bounded(120.0, 0)
    max_loras: int = _bounded(4, 1)
    arguments: tuple[str, ...] = ()  # further ones of `vllm serve`


@dataclass(frozen=True)
class ServeParams:
    """The gateway. `keys` is a file of API keys, made with `fst keys add`; without one, only loopback is served."""

    host: str = "127.0.0.1"
    port: int = _bounded(8080, 0, 65535)
    keys: str = ""
    max_body_bytes: int = _bounded(262_144, 1024)
    requests_per_minute: int = _bounded(0, 0)  # a tenant; 0: no limit
    max_waiting: int = _bounded(256, 1)  # requests in hand; more are told to come back (429)
    timeout_seconds: float = _bounded(60.0, 0)  # a request
    drain_seconds: float = _bounded(20.0, 0)  # for requests in hand at a shutdown
    poll_seconds: float = _bounded(1.0, 0.05)  # how often the channel is looked at
    prompts: Literal["best", "dealt"] = "best"  # dealt: the domain's prompts in turn
    canary_percent: float = _bounded(0.0, 0, 100)  # of the traffic for a new release at first; 0: all at once
    canary_scored: int = _bounded(100, 1)  # scored requests on the canary, then it is promoted or rolled back
    shadow: str = ""  # a channel whose release answers everything too, for the log alone


@dataclass(frozen=True)
class TrafficParams:
    """The traffic log. `redact` names an entry point of the group fst.redactors, a callable from text to text."""

    folder: str = "traffic"
    segment_bytes: int = _bounded(16_777_216, 1024)
    segment_seconds: float = _bounded(3600.0, 1)
    retention_days: float = _bounded(30.0, 0)
    redact: str = ""


@dataclass(frozen=True)
class DriftParams:
    """When traffic counts as drifted from what a release was measured on. `false_alarm_rate` is of a window, all
    signals together; an alert needs `windows_in_a_row`, and after it the domain is left alone for the cool-down."""

    window: int = _bounded(100, 10)  # requests
    min_scored: int = _bounded(30, 5)  # of a domain in a window, for its reward to be judged
    windows_in_a_row: int = _bounded(2, 1)
    false_alarm_rate: float = _bounded(0.01, 0.0001, 0.5)
    resamples: int = _bounded(500, 50)
    cool_down_seconds: float = _bounded(300.0, 0)
    new_domain_requests: int = _bounded(10, 2)  # unlike all domains and like each other, in a window
    poll_seconds: float = _bounded(1.0, 0.05)
    seed: int = _bounded(0, 0)


@dataclass(frozen=True)
class AlertParams:
    """Where alerts go, beside Prefect and the log. Empty: nowhere. Secrets in URLs come from the environment: a value
    `env:NAME` is read from there."""

    webhook: str = ""  # POST of the alert as JSON
    slack: str = ""  # POST of {"text": ...}
    email_to: str = ""
    email_from: str = "fst@localhost"
    smtp_host: str = "localhost"
    smtp_port: int = _bounded(25, 1, 65535)
    timeout_seconds: float = _bounded(5.0, 0.1)


@dataclass(frozen=True)
class AdaptParams:
    """An adaptation: fast rounds under frozen weights, then the gate; slow rounds only where that is not enough."""

    min_problems: int = _bounded(96, 12)  # scored requests with a known answer, before it starts
    max_problems: int = _bounded(400, 12)  # the newest of them
    wait_seconds: float = _bounded(120.0, 0)  # for that many
    fast_cycles: int = _bounded(1, 1)
    slow_cycles: int = _bounded(4, 0)  # 0: never touch the weights
    enough: float = _bounded(0.7, 0, 1)  # reward after the fast rounds that makes slow ones unnecessary
