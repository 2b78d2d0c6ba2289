"""The outbox: alerts that no adaptation has begun about, and asking for one until it has begun.

What was asked for is not written down. An alert is open while adaptations.jsonl has no line about it, so nothing is
lost when the watcher is killed, when nobody listens, or when what was started ends before it did anything. Asking
twice must be harmless to whoever is asked.
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
RETRY_SECONDS = 5.0  # after a question that reached nobody
FIRST_SECONDS, MOST_SECONDS = 15.0, 300.0  # after one that was heard: each wait is twice the one before
Ask = Callable[[Mapping[str, Any]], object]
log = logging.getLogger("fst.monitor")


def open_alerts(folder: Path, channel: str = "") -> list[dict[str, Any]]:
    """Alerts of a channel (of all, without one) that no adaptation has begun about, the oldest first. The latest alert
    of a domain stands for those before it."""
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
    """When the latest adaptation of each domain of a channel began, in seconds since the epoch."""
    found = {}
    for line in read_lines(folder / ADAPTATIONS):
        if (line.get("channel"), line.get("event")) == (channel, "started"):
            found[str(line["domain"])] = float(line["at"])
    return found


class Outbox:
    """Asks for the adaptations of a channel. `ask` gets an alert as alerts.jsonl has it, and raises where the question
    reached nobody."""

    def __init__(self, folder: Path, channel: str, ask: Ask) -> None:
        self._folder, self._channel, self._ask = folder, channel, ask
        self._again: dict[tuple[str, float], tuple[float, float]] = {}  # (when to ask again, the wait after that)
        self._unheard = ""  # why the last question reached nobody

    def send(self, now: float) -> None:
        """Ask about every open alert whose time has come; `now` is on any clock that does not go back, in seconds."""
        for alert in open_alerts(self._folder, self._channel):
            key = alert["domain"], alert["at"]
            due, wait = self._again.get(key, (now, FIRST_SECONDS))
            if now < due:
                continue
            try:
                self._ask(alert)
            except Exception as error:  # whatever the other side raises: the alert stays open
                if self._unheard != (why := f"{type(error).__name__}: {error}"):
                    log.warning("nobody could be asked to adapt %s (%s); asked every 5 s", key[0], why)
                self._again[key], self._unheard = (now + RETRY_SECONDS, wait), why
            else:
                self._unheard = ""
                self._again[key] = now + wait, min(2 * wait, MOST_SECONDS)

    def keep_sending(self, poll_seconds: float) -> None:
        """Send in the background, for as long as the process lives; a slow answer keeps no window waiting."""

        def run() -> None:
            while True:
                try:
                    self.send(time.monotonic())
                except Exception:  # a disk that is full for a while, for instance
                    log.exception("the open alerts could not be sent; tried again")
                time.sleep(poll_seconds)

        threading.Thread(target=run, daemon=True).start()
