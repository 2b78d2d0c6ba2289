"""Alerts, and whom they are told: a webhook, Slack, e-mail, and whatever the caller adds. A channel that fails is
tried once more and logged; it never stops the watching."""

from __future__ import annotations

import logging
import os
import smtplib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from typing import Any, Literal

import httpx

from fst.config import AlertParams
from fst.errors import ConfigError

Sink = Callable[["Alert"], object]
log = logging.getLogger("fst.monitor")


@dataclass(frozen=True)
class Alert:
    """What was found: a `domain` of a `channel` whose traffic is not what its `release` was measured on (drifted), or
    that is new (new_domain). `at` is when, `since` when the traffic that it is about began (seconds since the epoch);
    `signals` are those beyond their thresholds; `report` is a page, "" without one."""

    at: float
    since: float
    kind: Literal["drifted", "new_domain"]
    domain: str
    channel: str
    release: str
    signals: tuple[dict[str, Any], ...]
    examples: tuple[str, ...]
    report: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def sentence(self) -> str:
        """For people."""
        if self.kind == "new_domain":
            what = f"a new domain {self.domain!r} in the traffic of channel {self.channel}"
        else:
            what = f"{self.domain!r} on channel {self.channel} drifted"
        signals = ", ".join(f"{s['signal']} {s['score']:.3g} (limit {s['threshold']:.3g})" for s in self.signals)
        return f"{what}: {signals}; release {self.release[:12]}"


def channels(params: AlertParams) -> list[Sink]:
    """Those of the parameters. Raises ConfigError for an environment variable that is not set."""
    found: list[Sink] = []
    if params.webhook:
        found.append(_posting(_value("alerts.webhook", params.webhook), Alert.as_dict, params))
    if params.slack:
        found.append(_posting(_value("alerts.slack", params.slack), lambda alert: {"text": alert.sentence}, params))
    if params.email_to:
        found.append(lambda alert: _send(alert, params))
    return found


def tell(alert: Alert, sinks: list[Sink]) -> None:
    """Tell everybody; each failing one is tried once more."""
    for sink in sinks:
        for attempt in (1, 2):
            try:
                sink(alert)
                break
            except Exception as error:  # whatever a channel raises: the others still hear of it
                said = type(error).__name__  # its message may hold the URL, and with it a secret
                log.warning("an alert did not reach its channel (%s), attempt %d", said, attempt)


def _posting(url: str, body: Callable[[Alert], Any], params: AlertParams) -> Sink:
    def post(alert: Alert) -> None:
        answer = httpx.post(url, json=body(alert), timeout=params.timeout_seconds, trust_env=False)
        answer.raise_for_status()

    return post


def _send(alert: Alert, params: AlertParams) -> None:
    message = EmailMessage()
    message["Subject"] = f"{'New domain' if alert.kind == 'new_domain' else 'Drift'}: {alert.domain} on {alert.channel}"
    message["From"], message["To"] = params.email_from, _value("alerts.email_to", params.email_to)
    message.set_content("\n\n".join([alert.sentence, "Examples:", *alert.examples, alert.report]))
    with smtplib.SMTP(params.smtp_host, params.smtp_port, timeout=params.timeout_seconds) as server:
        server.send_message(message)


def _value(key: str, value: str) -> str:
    """A parameter, or what it names in the environment."""
    if not value.startswith("env:"):
        return value
    found = os.environ.get(value.removeprefix("env:"))
    if not found:
        raise ConfigError(f"{key}: the environment has no {value.removeprefix('env:')}; set it, or clear the parameter")
    return found
