"""The sections of params.yaml about live traffic: the gateway, its log, drift, alerts, adaptation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fst.config.section import Number, Section, Texts


class ServeParams(Section):
    """The gateway."""

    host: str = Field("127.0.0.1", description="address to listen on; any but loopback needs `keys`")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0: a free one")
    keys: str = Field("", description="file of API keys (`fst keys add`); empty: no keys, loopback only")
    allowed_hosts: Texts = Field(
        (),
        description="names in the header Host that it answers to, besides loopback's; empty: with keys every name, "
        "without keys only loopback's",
    )
    max_body_bytes: int = Field(262_144, ge=1024, description="longest request body, in bytes")
    requests_per_minute: int = Field(0, ge=0, description="requests per tenant and minute; 0: no limit")
    limits_url: str = Field(
        "",
        description="Redis in which all replicas count requests together, as redis://HOST:PORT/DATABASE; `env:NAME` "
        "reads it from the environment; empty: each replica counts for itself",
    )
    max_waiting: int = Field(256, ge=1, description="requests in progress at once; further ones get status 429")
    timeout_seconds: Number = Field(60.0, ge=0, description="longest wait for the next token of an answer")
    drain_seconds: Number = Field(20.0, ge=0, description="time that running requests get at shutdown")
    poll_seconds: Number = Field(1.0, ge=0.05, description="interval at which the channel is polled")
    prompts: Literal["best", "dealt"] = Field("best", description="a domain's best prompt, or its prompts in turn")
    canary_percent: Number = Field(
        0.0, ge=0, le=100, description="traffic (%) a new release gets at first; 0: all of it"
    )
    canary_scored: int = Field(100, ge=1, description="scored requests until a canary is promoted or rolled back")
    shadow: str = Field("", description="a channel whose release also answers every request, only for the log")


class TrafficParams(Section):
    """The log of requests and feedback."""

    folder: str = Field("traffic", description="directory of the log, from the project's root")
    segment_bytes: int = Field(16_777_216, ge=1024, description="bytes after which the next log file begins")
    segment_seconds: Number = Field(3600.0, ge=1, description="age after which the next log file begins")
    retention_days: Number = Field(30.0, ge=0, description="days after which a log file is deleted")
    redact: str = Field("", description="entry point of the group fst.redactors: a function from text to text")


class DriftParams(Section):
    """When traffic counts as drifted from what the release was measured on."""

    window: int = Field(100, ge=10, description="requests per window")
    min_scored: int = Field(30, ge=5, description="scored requests of a domain in a window, to judge its reward")
    windows_in_a_row: int = Field(2, ge=1, description="windows in a row beyond a threshold that raise an alert")
    false_alarm_rate: Number = Field(0.01, ge=0.0001, le=0.5, description="probability per window, over all signals")
    resamples: int = Field(500, ge=50, description="draws from the reference to compute the thresholds")
    cool_down_seconds: Number = Field(300.0, ge=0, description="time after an alert without another for its domain")
    new_domain_requests: int = Field(
        10, ge=2, description="requests unlike all domains, of one pattern or of free text, for a new one"
    )
    poll_seconds: Number = Field(1.0, ge=0.05, description="interval at which the log is read")
    seed: int = Field(0, ge=0, description="seed of the draws")


class AlertParams(Section):
    """Where alerts go, besides the log and Prefect. Empty: nowhere. `env:NAME` reads a value from the environment."""

    webhook: str = Field("", description="URL that gets each alert as JSON (POST), or any Apprise URL")
    slack: str = Field("", description="URL of a Slack webhook: POST of {text}, or any Apprise URL")
    email_to: str = Field("", description="address of the recipient")
    email_from: str = Field("fst@localhost", description="address of the sender")
    smtp_host: str = Field("localhost", description="mail server")
    smtp_port: int = Field(25, ge=1, le=65535, description="its TCP port")
    timeout_seconds: Number = Field(5.0, ge=0.1, description="time limit of an attempt to deliver an alert")


class AdaptParams(Section):
    """What an alert starts: fast rounds with frozen weights, then the gate; RL steps only if that is not enough."""

    min_problems: int = Field(96, ge=12, description="questions with one known answer that an adaptation needs")
    max_problems: int = Field(400, ge=12, description="the most of these that are used, the newest ones")
    wait_seconds: Number = Field(120.0, ge=0, description="longest wait for `min_problems`")
    fast_cycles: int = Field(1, ge=1, description="fast rounds")
    slow_cycles: int = Field(4, ge=0, description="cycles with RL steps; 0: the weights stay as they are")
    tenant_share: Number = Field(
        0.5,
        ge=0.01,
        le=1,
        description="largest share of the problems that may come from one tenant's feedback, if several tenants gave "
        "any; more if fewer than `min_problems` would remain",
    )
    enough: Number = Field(0.7, ge=0, le=1, description="mean reward after the fast rounds that makes RL unnecessary")
