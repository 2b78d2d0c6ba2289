"""The watcher: follows the traffic log, judges its windows, and keeps records and its own state.

Files in one folder:
    windows.jsonl       a line per window: {"at", "channel", "release", "number", "requests", "unknown", "scores":
                        [{"domain", "signal", "score", "threshold", "beyond", "n", "mean"}], "mix": {domain: share},
                        "mix_score"}
    alerts.jsonl        a line per alert: Alert.as_dict
    state-CHANNEL.json  the position in the log, the beginning of the next window, the lines that the last look wrote,
                        and alerts that have not been sent yet

The state is written first. A watcher that was killed at any point continues from it and adds the missing lines, so that
a window is judged once and an alert is neither lost nor raised twice."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from fst.config import DriftParams
from fst.files import write_atomic
from fst.lines import append_line, read_back
from fst.monitoring.alerts import Alert
from fst.monitoring.calibration import thresholds_of
from fst.monitoring.newcomers import Newcomer
from fst.monitoring.outbox import ALERTS, begun
from fst.monitoring.signals import Reference, reference_of
from fst.monitoring.watch import Watch
from fst.store.bundle import Bundle
from fst.traffic.log import Exchange, Feedback, Position, Request, read

WINDOWS = "windows.jsonl"
log = logging.getLogger("fst.monitor")


class Watcher:
    """Follows a traffic log and keeps its records and state in `folder`. `bundle_of` returns the bundle that the
    channel points at now; `untold` has the alerts that have not been sent yet, including those of an earlier
    watcher."""

    def __init__(
        self, log_folder: Path, folder: Path, channel: str, params: DriftParams, bundle_of: Callable[[], Bundle | None]
    ) -> None:
        self._log, self._folder, self._channel, self._params = log_folder, folder, channel, params
        self._bundle_of = bundle_of
        self._state = folder / f"state-{channel}.json"
        self._position, self._requests, self._feedback = Position(), list[Request](), dict[str, Feedback]()
        self._latest: deque[Request] = deque(maxlen=params.window)
        self.watch: Watch | None = None
        self.untold: list[Alert] = []
        self._resume()

    def look(self, now: float | None = None, settled_seconds: float = 0.0) -> list[Alert]:
        """Read what came since the last look, judge the full windows, and return the alerts after recording them. A
        window is judged `settled_seconds` after its last request, to wait for late feedback."""
        now = time.time() if now is None else now
        self._follow_release()
        if self.watch:
            self.watch.rest(begun(self._folder, self._channel))
        records, self._position = read(self._log, self._position)
        fresh = list[Request]()
        for record in records:
            if isinstance(record, Feedback):
                self._feedback[record.id] = record
            elif self.watch and record.variant != "shadow" and record.release == self.watch.release:
                self._requests.append(record)
                self._latest.append(record)
                fresh.append(record)
        alerts, windows = self.watch.new_domains(fresh, now) if self.watch and fresh else [], []
        size = self._params.window
        while self.watch and len(self._requests) >= size and self._requests[size - 1].at <= now - settled_seconds:
            window = [Exchange(r, self._feedback.get(r.id)) for r in self._requests[:size]]
            self._requests = self._requests[size:]
            judged, raised = self.watch.judge(window, now)
            windows.append(judged)
            alerts += raised
        if records or windows:
            self._forget()
            self.untold += alerts
            lines = {WINDOWS: windows, ALERTS: [alert.as_dict() for alert in alerts]}
            self._save(lines)
            for name, added in lines.items():
                for line in added:
                    append_line(self._folder / name, line)
        for alert in alerts:
            log.warning("%s", alert.sentence)
        return alerts

    def told(self) -> None:
        """Record that all alerts so far have been sent."""
        if self.untold:
            self.untold = []
            self._save({})

    def window(self) -> tuple[Reference | None, list[Request]]:
        """The reference (None before the first release) and the latest requests, for a report."""
        return (self.watch.reference if self.watch else None), list(self._latest)

    # -- parts ------------------------------------------------------------------------------------------

    def _follow_release(self) -> None:
        """Switch to the release that the channel points at. New domains that it serves are dropped, counting restarts,
        and cool-downs end, because traffic is now compared with another reference."""
        bundle = self._bundle_of()
        if bundle is None or (self.watch and self.watch.release == bundle.id):
            return
        measured = bundle.manifest.get("params", {}).get("model", {})
        reference = reference_of(bundle.reference(), measured.get("max_new_tokens"))
        thresholds = thresholds_of(reference, self._params, self._folder)
        before = self.watch
        self.watch = Watch(self._channel, bundle.id, reference, thresholds, self._params)
        if before:
            self.watch.number = before.number
            self.watch.newcomers = _unserved(before.newcomers, reference)
        self._requests, self._latest = [], deque(maxlen=self._params.window)
        if not before:
            self._restore(self.watch)

    def _forget(self) -> None:
        """Drop the feedback on requests that have been judged."""
        if len(self._feedback) > 20 * self._params.window:
            waiting = {request.id for request in self._requests}
            self._feedback = {key: said for key, said in self._feedback.items() if key in waiting}

    def _save(self, lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        watch = self.watch
        values = {
            "lines": lines,
            "untold": [alert.as_dict() for alert in self.untold],
            "position": asdict(self._position),
            "requests": [vars(request) for request in self._requests],
            "feedback": [vars(self._feedback[r.id]) for r in self._requests if r.id in self._feedback],
            "latest": [vars(request) for request in self._latest],
            "watch": watch
            and {
                "release": watch.release,
                "number": watch.number,
                "streaks": watch.streaks,
                "quiet_until": watch.quiet_until,
                "mixes": list(watch.mixes),
                "seen": watch.seen,
                "strange": [(number, vars(request)) for number, request in watch.strange],
            },
            "newcomers": [asdict(newcomer) for newcomer in (watch.newcomers.values() if watch else ())],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._state, json.dumps(values))  # every second: no indentation, ten times as fast

    def _resume(self) -> None:
        """Continue from the state file, so that nothing is judged twice. Without one, only new log entries are read."""
        self._held: dict[str, Any] = {}
        if not self._state.exists():
            self._position = read(self._log)[1]
            self._save({})
            return
        self._held = values = json.loads(self._state.read_text(encoding="utf-8"))
        self._position = Position(**values["position"])
        self.untold = [Alert.of(alert) for alert in values.get("untold", ())]
        for name, lines in values.get("lines", {}).items():
            written = list(islice(read_back(self._folder / name), len(lines)))
            for line in lines:
                if line not in written:
                    append_line(self._folder / name, line)

    def _restore(self, watch: Watch) -> None:
        """Restore the content of the state file, once the release is known."""
        values, self._held = self._held, {}
        if not values or not values["watch"]:
            return
        kept = values["watch"]
        watch.number = kept["number"]
        watch.newcomers = _unserved({n["name"]: _newcomer(n) for n in values["newcomers"]}, watch.reference)
        if kept["release"] == watch.release:
            watch.quiet_until = dict(kept["quiet_until"])
            watch.streaks = {domain: list(began) for domain, began in kept["streaks"].items()}
            watch.mixes.extend(kept["mixes"])
            watch.seen = kept.get("seen", 0)
            watch.strange.extend((number, _request(r)) for number, r in kept.get("strange", ()))
            self._requests = [_request(r) for r in values["requests"]]
            self._latest.extend(_request(r) for r in values["latest"])
            self._feedback = {f["id"]: Feedback(**f) for f in values["feedback"]}


def newcomers_of(folder: Path) -> dict[str, Newcomer]:
    """Return the new domains found on any channel, by name."""
    found = {}
    for state in sorted(folder.glob("state-*.json")):
        for n in json.loads(state.read_text(encoding="utf-8"))["newcomers"]:
            found[n["name"]] = _newcomer(n)
    return found


def _unserved(newcomers: Mapping[str, Newcomer], reference: Reference) -> dict[str, Newcomer]:
    return {name: newcomer for name, newcomer in newcomers.items() if name not in reference.domains}


def _newcomer(values: dict[str, Any]) -> Newcomer:
    return Newcomer(values["name"], tuple(values["questions"]), values["since"])


def _request(values: dict[str, Any]) -> Request:
    return replace(Request(**values), tokens=tuple(values["tokens"]))
