"""The watcher: windows of traffic in, alerts out.

A window is the next `drift.window` requests of the channel's release. A domain drifted when one of its signals is
beyond its threshold in `windows_in_a_row` windows; after an alert it raises none until the cool-down is over. A new
domain needs no second window, since ten requests that are unlike every served domain and like each other do not happen
by chance; each look searches the latest `drift.window` requests for one.

Files in one folder:
    windows.jsonl       a line per window: {"at", "channel", "release", "number", "requests", "unknown", "scores":
                        [{"domain", "signal", "score", "threshold", "beyond", "n", "mean"}], "mix": {domain: share},
                        "mix_score"}
    alerts.jsonl        a line per alert: Alert.as_dict
    state-CHANNEL.json  the place that the log was read to, and what the next window begins with"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fst.config import DriftParams
from fst.files import document, write_atomic
from fst.lines import append_line
from fst.monitoring.alerts import Alert
from fst.monitoring.calibration import Thresholds, thresholds_of
from fst.monitoring.newcomers import EXAMPLES, Newcomer, clusters, name_for
from fst.monitoring.signals import Reference, columns_of, distance, is_worse, mix_distance, reference_of
from fst.store.bundle import Bundle
from fst.traffic.log import Exchange, Feedback, Position, Request, read
from fst.traffic.trust import FAR, Tally, suspects

PAST_WINDOWS = 5  # windows that the mix of the next one is compared with
log = logging.getLogger("fst.monitor")


@dataclass
class Watch:
    """A channel's release with its reference and thresholds, and the state of watching it. `taken` are names that no
    new domain may have."""

    channel: str
    release: str
    reference: Reference
    thresholds: Thresholds
    params: DriftParams
    taken: frozenset[str] = frozenset()
    number: int = 0
    streaks: dict[str, list[float]] = field(default_factory=dict)  # domain -> when its windows beyond began
    quiet_until: dict[str, float] = field(default_factory=dict)
    newcomers: dict[str, Newcomer] = field(default_factory=dict)
    mixes: deque[list[str]] = field(default_factory=lambda: deque(maxlen=PAST_WINDOWS))

    def judge(self, window: Sequence[Exchange], now: float) -> tuple[dict[str, Any], list[Alert]]:
        """The record of a full window, and the alerts that it raises. `now` is in seconds since the epoch."""
        self.number += 1
        columns = columns_of(window)
        scores = [score for key, column in columns.items() if (score := self._score(*key, column))]
        mix = [e.request.domain or "unknown" for e in window]
        record = {
            "at": now,
            "channel": self.channel,
            "release": self.release,
            "number": self.number,
            "requests": len(window),
            "unknown": mix.count("unknown"),
            "scores": scores,
            "mix": {domain: count / len(mix) for domain, count in sorted(Counter(mix).items())},
            "mix_score": round(mix_distance(mix, [name for past in self.mixes for name in past]), 4),
        }
        self.mixes.append(mix)
        return record, self._drifted(window, scores, now)

    def newcomer(self, latest: Sequence[Request], now: float) -> Alert | None:
        """An alert about a new domain among the latest requests, None without one. A new domain that was found before
        keeps its name."""
        unknown = [request for request in latest if not request.domain and request.routed == "unknown"]
        for group in clusters([request.question for request in unknown], self.params.new_domain_requests):
            mine = [unknown[index] for index in group]
            found = self._named(mine)
            if now < self.quiet_until.get(found.name, 0.0):
                continue
            self.quiet_until[found.name] = now + self.params.cool_down_seconds
            share, limit = len(mine) / len(latest), self.params.new_domain_requests / self.params.window
            signal = {"domain": "", "signal": "unlike all domains", "score": share, "threshold": limit}
            questions = tuple(request.question for request in mine[:5])
            return Alert(now, found.since, "new_domain", found.name, self.channel, self.release, (signal,), questions)
        return None

    def _score(self, domain: str, signal: str, column: Any) -> dict[str, Any] | None:
        least = self.params.min_scored if signal == "reward" else 10
        reference = self.reference.columns.get((domain, signal))
        if reference is None or len(column) < least:
            return None
        threshold = self.thresholds.of(domain, signal, len(column))
        if threshold is None:
            return None
        score = distance(column, reference)
        beyond = bool(score > threshold and is_worse(signal, column, reference))
        figures = {"score": round(score, 5), "threshold": round(threshold, 5), "mean": round(float(column.mean()), 4)}
        return {"domain": domain, "signal": signal, **figures, "beyond": beyond, "n": len(column)}

    def _drifted(self, window: Sequence[Exchange], scores: list[dict[str, Any]], now: float) -> list[Alert]:
        alerts = []
        began = window[0].request.at
        for domain in self.reference.domains:
            beyond = tuple(s for s in scores if s["domain"] == domain and s["beyond"])
            streak = self.streaks.setdefault(domain, [])
            if not beyond:
                streak.clear()
                continue
            streak.append(began)
            if len(streak) >= self.params.windows_in_a_row and now >= self.quiet_until.get(domain, 0.0):
                self.quiet_until[domain] = now + self.params.cool_down_seconds
                mine = [e.request.question for e in window if e.request.domain == domain]
                examples, signals = tuple(mine[:5]), (*beyond, *_contradicting(window, domain))
                alerts.append(Alert(now, streak[0], "drifted", domain, self.channel, self.release, signals, examples))
                streak.clear()
        return alerts

    def _named(self, mine: Sequence[Request]) -> Newcomer:
        """The newcomer of a group of requests: the known one that most of them belong to, or a new one."""
        texts = [request.question for request in mine]
        for known in self.newcomers.values():
            if sum(known.belongs(texts)) * 2 > len(texts):
                return known
        taken = {*self.reference.domains, *self.newcomers, *self.taken}
        name = name_for(texts, self.reference.questions, taken)
        found = Newcomer(name, tuple(dict.fromkeys(texts))[:EXAMPLES], min(request.at for request in mine))
        self.newcomers[name] = found
        return found


class Watcher:
    """Follows a traffic log and keeps its records and state in `folder`. `bundle_of` gives the bundle that the channel
    points at now."""

    def __init__(
        self, log_folder: Path, folder: Path, channel: str, params: DriftParams, bundle_of: Callable[[], Bundle | None]
    ) -> None:
        self._log, self._folder, self._channel, self._params = log_folder, folder, channel, params
        self._bundle_of = bundle_of
        self._state = folder / f"state-{channel}.json"
        self._position, self._requests, self._feedback = Position(), list[Request](), dict[str, Feedback]()
        self._latest: deque[Request] = deque(maxlen=params.window)
        self.watch: Watch | None = None
        self._resume()

    def look(self, now: float | None = None, settled_seconds: float = 0.0) -> list[Alert]:
        """Read what came since the last look, judge the windows that are full, and return the alerts after recording
        them. A window is judged `settled_seconds` after its last request, for feedback that is on its way."""
        now = time.time() if now is None else now
        self._follow_release()
        records, self._position = read(self._log, self._position)
        fresh = False
        for record in records:
            if isinstance(record, Feedback):
                self._feedback[record.id] = record
            elif self.watch and record.variant != "shadow" and record.release == self.watch.release:
                self._requests.append(record)
                self._latest.append(record)
                fresh = True
        alerts = []
        if self.watch and fresh and (found := self.watch.newcomer(list(self._latest), now)):
            alerts.append(found)
        size = self._params.window
        while self.watch and len(self._requests) >= size and self._requests[size - 1].at <= now - settled_seconds:
            window = [Exchange(r, self._feedback.get(r.id)) for r in self._requests[:size]]
            self._requests = self._requests[size:]
            record_of, raised = self.watch.judge(window, now)
            append_line(self._folder / "windows.jsonl", record_of)
            alerts += raised
        for alert in alerts:
            append_line(self._folder / "alerts.jsonl", alert.as_dict())
            log.warning("%s", alert.sentence)
        if records:
            self._forget()
            self._save()
        return alerts

    def window(self) -> tuple[Reference | None, list[Request]]:
        """The reference (None before the first release) and the latest requests, for a report."""
        return (self.watch.reference if self.watch else None), list(self._latest)

    # -- parts ------------------------------------------------------------------------------------------

    def _follow_release(self) -> None:
        """Take up the release that the channel points at. New domains that it serves are dropped and counting begins
        anew; cool-downs stay."""
        bundle = self._bundle_of()
        if bundle is None or (self.watch and self.watch.release == bundle.id):
            return
        reference = reference_of(bundle.reference())
        thresholds = thresholds_of(reference, self._params, self._folder)
        before = self.watch
        self.watch = Watch(self._channel, bundle.id, reference, thresholds, self._params)
        if before:
            self.watch.quiet_until, self.watch.number = before.quiet_until, before.number
            served = set(reference.domains)
            self.watch.newcomers = {name: n for name, n in before.newcomers.items() if name not in served}
        self._requests, self._latest = [], deque(maxlen=self._params.window)
        if not before:
            self._restore(self.watch)

    def _forget(self) -> None:
        """Drop the feedback on requests that are judged already."""
        if len(self._feedback) > 20 * self._params.window:
            waiting = {request.id for request in self._requests}
            self._feedback = {key: said for key, said in self._feedback.items() if key in waiting}

    def _save(self) -> None:
        watch = self.watch
        values = {
            "position": asdict(self._position),
            "requests": [asdict(request) for request in self._requests],
            "feedback": [asdict(self._feedback[r.id]) for r in self._requests if r.id in self._feedback],
            "latest": [asdict(request) for request in self._latest],
            "watch": watch
            and {
                "release": watch.release,
                "number": watch.number,
                "streaks": watch.streaks,
                "quiet_until": watch.quiet_until,
                "mixes": list(watch.mixes),
            },
            "newcomers": [asdict(newcomer) for newcomer in (watch.newcomers.values() if watch else ())],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._state, document(values))

    def _resume(self) -> None:
        """Continue from the state file, so that nothing is judged twice. Without one, the log is read from its end."""
        self._held: dict[str, Any] = {}
        if not self._state.exists():
            self._position = read(self._log)[1]
            return
        self._held = values = json.loads(self._state.read_text(encoding="utf-8"))
        self._position = Position(**values["position"])

    def _restore(self, watch: Watch) -> None:
        """Restore what the state file holds, once the release is known."""
        values, self._held = self._held, {}
        if not values or not values["watch"]:
            return
        kept = values["watch"]
        watch.quiet_until, watch.number = dict(kept["quiet_until"]), kept["number"]
        watch.newcomers = {n["name"]: _newcomer(n) for n in values["newcomers"]}
        if kept["release"] == watch.release:
            watch.streaks = {domain: list(began) for domain, began in kept["streaks"].items()}
            watch.mixes.extend(kept["mixes"])
            self._requests = [_request(r) for r in values["requests"]]
            self._latest.extend(_request(r) for r in values["latest"])
            self._feedback = {f["id"]: Feedback(**f) for f in values["feedback"]}


def _contradicting(window: Sequence[Exchange], domain: str) -> list[dict[str, Any]]:
    """A signal for each tenant whose feedback contradicts the others': how many of its answers are confirmed."""
    told = [e.feedback for e in window if e.request.domain == domain and e.feedback]
    scored = [(said.tenant, said.reward >= 0.5) for said in told if said.reward is not None]
    return [
        {
            "domain": domain,
            "signal": f"feedback of {suspect.tenant} contradicts the others', confirmed",
            "score": suspect.tally.confirmed / suspect.tally.of,
            "threshold": FAR * suspect.median,
        }
        for suspect in suspects(Tally.count(scored), "the served responses")
    ]


def newcomers_of(folder: Path) -> dict[str, Newcomer]:
    """The new domains that were found, by name, of every channel."""
    found = {}
    for state in sorted(folder.glob("state-*.json")):
        for n in json.loads(state.read_text(encoding="utf-8"))["newcomers"]:
            found[n["name"]] = _newcomer(n)
    return found


def _newcomer(values: dict[str, Any]) -> Newcomer:
    return Newcomer(values["name"], tuple(values["questions"]), values["since"])


def _request(values: dict[str, Any]) -> Request:
    return replace(Request(**values), tokens=tuple(values["tokens"]))
