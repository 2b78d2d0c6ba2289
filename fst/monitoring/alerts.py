"""Alerts and their channels: a webhook, Slack, e-mail, any service that Apprise knows, and callables.

An http or https URL gets its documented body by httpx: a webhook gets the alert as JSON, Slack gets {text}. Apprise can
send neither: its `json://` has a fixed body whose extra fields are strings, and its `slack://` only reaches
hooks.slack.com. E-mail and every other URL go through Apprise. A channel that fails is tried once more and logged; it
never stops the watcher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import httpx
from apprise import Apprise, AppriseAsset, NotifyFormat

from fst.config import AlertParams
from fst.environment import from_environment
from fst.errors import ConfigError

Sink = Callable[["Alert"], object]
log = logging.getLogger("fst.monitor")


@dataclass(frozen=True)
class Alert:
    """An alert about a domain of a channel whose traffic differs from what its release was measured on (`drifted`), or
    about a domain that no release serves (`new_domain`). `at` is when it was raised, `since` when the traffic in
    question began (seconds since the epoch); `signals` are those beyond their thresholds; `report` is the path of a
    page, "" without one."""

    at: float
    since: float
    kind: Literal["drifted", "new_domain"]
    domain: str
    channel: str
    release: str
    signals: tuple[dict[str, Any], ...]
    examples: tuple[str, ...]
    report: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Alert:
        """Rebuild an alert from what `as_dict` returned, also after a round trip through JSON."""
        return cls(**{**values, "signals": tuple(values["signals"]), "examples": tuple(values["examples"])})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def title(self) -> str:
        """The alert's subject line."""
        return f"{'New domain' if self.kind == 'new_domain' else 'Drift'}: {self.domain} on {self.channel}"

    @property
    def sentence(self) -> str:
        """The alert in one sentence."""
        if self.kind == "new_domain":
            what = f"a new domain {self.domain!r} in the traffic of channel {self.channel}"
        else:
            what = f"{self.domain!r} on channel {self.channel} drifted"
        signals = ", ".join(f"{s['signal']} {s['score']:.3g} (limit {s['threshold']:.3g})" for s in self.signals)
        return f"{what}: {signals}; release {self.release[:12]}"


def channels(params: AlertParams) -> list[Sink]:
    """Make the channels that the section `alerts` names. Raises ConfigError for an environment variable that is not
    set, and for a URL or address that Apprise does not understand."""
    for library in ("apprise", "httpcore", "httpx", "urllib3"):  # they log URLs, which may hold secrets
        logging.getLogger(library).setLevel(logging.CRITICAL)
    found: list[Sink] = []
    if params.webhook:
        found.append(_channel("alerts.webhook", params.webhook, Alert.as_dict, params))
    if params.slack:
        found.append(_channel("alerts.slack", params.slack, lambda alert: {"text": alert.sentence}, params))
    if params.email_to:
        addresses = {"from": params.email_from, "to": from_environment("alerts.email_to", params.email_to)}
        query = urlencode({**addresses, "smtp": params.smtp_host, "mode": "insecure", "format": "text"})
        url = f"mailto://{params.smtp_host}:{params.smtp_port}?{query}"
        found.append(_notifying("alerts.email_to", url, params))
    return found


def tell(alert: Alert, sinks: list[Sink]) -> None:
    """Send an alert to every sink; one that fails is tried once more."""
    for sink in sinks:
        for attempt in (1, 2):
            try:
                sink(alert)
                break
            except Exception as error:  # whatever a channel raises: the others still get the alert
                said = type(error).__name__  # its message may contain the URL, and with it a secret
                log.warning("an alert could not be sent to its channel (%s), attempt %d", said, attempt)


def _channel(key: str, value: str, body: Callable[[Alert], Any], params: AlertParams) -> Sink:
    url = from_environment(key, value)
    return _posting(url, body, params) if url.startswith(("http://", "https://")) else _notifying(key, url, params)


def _posting(url: str, body: Callable[[Alert], Any], params: AlertParams) -> Sink:
    def post(alert: Alert) -> None:
        answer = httpx.post(url, json=body(alert), timeout=params.timeout_seconds, trust_env=False)
        answer.raise_for_status()

    return post


def _notifying(key: str, url: str, params: AlertParams) -> Sink:
    service = Apprise(asset=AppriseAsset(app_id="fst", async_mode=False))
    if not service.add(url):
        raise ConfigError(
            f"{key}: Apprise does not understand it; write it as described at https://appriseit.com/services/"
        )
    for server in service:
        server.socket_connect_timeout = server.socket_read_timeout = params.timeout_seconds
        server.request_rate_per_sec = 0  # it would wait between alerts, which are rare anyway

    def notify(alert: Alert) -> None:
        text = "\n\n".join(filter(None, [alert.sentence, "Examples:", *alert.examples, alert.report]))
        if not service.notify(text, alert.title, body_format=NotifyFormat.TEXT):
            raise ConnectionError

    return notify
