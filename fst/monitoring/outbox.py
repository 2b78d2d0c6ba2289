"""The outbox: asks for an adaptation for each open alert until one has begun.

Requests are not recorded. An alert is open while adaptations.jsonl has no line about it, so nothing is lost if the
watcher is killed, if nothing listens, or if the started run ends before it did anything. The receiver must tolerate
being asked twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fst.lines import read_lines

ALERTS, ADAPTATIONS = "alerts.jsonl", "adaptations.jsonl"
RETRY_SECONDS = 5.0  # wait after a request that failed
FIRST_SECONDS, MOST_SECONDS = 15.0, 300.0  # first and longest wait after one that succeeded; each doubles the last
Ask = Callable[[Mapping[str, Any]], object]
log = logging.getLogger("fst.monitor")


def open_alerts(folder: Path, channel: str = "") -> list[dict[str, Any]]:
    """Return the alerts of a channel ("": of all channels) for which no adaptation has begun, the oldest first. Only
    the latest alert of each domain is included."""
    latest: dict[tuple[Any, Any], dict[str, Any]] = {}
    for alert in read_lines(folder / ALERTS):
        if "at" in alert and channel in ("", alert.get("channel")):
            latest[alert.get("channel"), alert.get("domain")] = alert
    for line in read_lines(folder / ADAPTATIONS):
        key = line.get("channel"), line.get("domain")
        if key in latest and line.get("alert", 0.0) >= latest[key]["at"]:
            del latest[key]
    return sorted(latest.values(), key=lambda alert: float(alert["at"]))


def begun(folder: Path, channel: str) -> dict[str, float]:
    """Return when the latest adaptation of each domain of a channel began, in seconds since the epoch."""
    found = {}
    for line in read_lines(folder / ADAPTATIONS):
        if (line.get("channel"), line.get("event")) == (channel, "started"):
            found[str(line["domain"])] = float(line["at"])
    return found


class Outbox:
    """Asks for the adaptations of a channel. `ask` gets an alert as it is in alerts.jsonl, and raises if its request
    could not be delivered."""

    def __init__(self, folder: Path, channel: str, ask: Ask) -> None:
        self._folder, self._channel, self._ask = folder, channel, ask
        self._again: dict[tuple[str, float], tuple[float, float]] = {}  # (when to ask again, the wait after that)
        self._unheard = ""  # why the last request failed

    def send(self, now: float) -> None:
        """Ask for every open alert that is due; `now` is in seconds on any monotonic clock."""
        for alert in open_alerts(self._folder, self._channel):
            key = alert["domain"], alert["at"]
            due, wait = self._again.get(key, (now, FIRST_SECONDS))
            if now < due:
                continue
            try:
                self._ask(alert)
            except Exception as error:  # whatever the other side raises: the alert stays open
                if self._unheard != (why := f"{type(error).__name__}: {error}"):
                    log.warning("the adaptation of %s could not be requested (%s); retrying every 5 s", key[0], why)
                self._again[key], self._unheard = (now + RETRY_SECONDS, wait), why
            else:
                self._unheard = ""
                self._again[key] = now + wait, min(2 * wait, MOST_SECONDS)

    def keep_sending(self, poll_seconds: float) -> None:
        """Call `send` in a background thread for as long as the process lives, so that slow replies delay no window."""

        def run() -> None:
            while True:
                try:
                    self.send(time.monotonic())
                except Exception:  # for instance, a disk that is temporarily full
                    log.exception("the open alerts could not be sent; trying again")
                time.sleep(poll_seconds)

        threading.Thread(target=run, daemon=True).start()
