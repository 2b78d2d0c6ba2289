"""The data of the dashboard, from the store, the traffic log and the records. Damaged or missing parts are left out."""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any

from fst.config import Params
from fst.errors import FstError
from fst.lines import read_back, read_lines
from fst.monitoring.outbox import ADAPTATIONS, ALERTS
from fst.release.history import load_releases
from fst.release.references import References
from fst.release.views import compare
from fst.stages.places import Places
from fst.store.bundle import Bundle
from fst.traffic.log import Feedback, Position, Request, read

BIN_SECONDS = 2.0
SHOWN_SECONDS = 1800.0  # of traffic
REMEMBERED = 50_000  # requests for which feedback may still come
MOST = 200  # lines of windows.jsonl and of alerts.jsonl that are shown


class DashboardData:
    """Collects the dashboard's data, reading only new traffic at each call. Methods may be called from several
    threads."""

    def __init__(self, params: Params, places: Places) -> None:
        self._params, self._places = params, places
        self._references = References.of(params, places)
        self._lock = threading.Lock()
        self._position = Position()
        self._asked: OrderedDict[str, Request] = OrderedDict()
        self._bins: dict[tuple[int, str], list[float]] = {}
        self._counts: dict[tuple[int, str], int] = {}
        self._bundles: dict[str, Bundle] = {}

    def read(self) -> dict[str, Any]:
        """Read all data except the gateway's own state."""
        with self._lock:
            self._follow()
            channels, alerts = self._channels(), self._alerts()
            for alert in alerts:
                alert["open"] = waits(alert, alerts, channels)
            return {
                "now": time.time(),
                "bin_seconds": BIN_SECONDS,
                "channels": channels,
                "traffic": self._traffic(),
                "drift": self._drift(),
                "alerts": alerts,
                "prompts": self._prompts(),
                "curves": self._curves(),
                "links": self._links(),
            }

    def diff(self, first: str, second: str) -> dict[str, Any]:
        """Compare two bundles of the store. Raises ConfigError for a reference that matches no bundle."""
        with self._lock:
            found = compare(self._bundle(self._references.id(first)), self._bundle(self._references.id(second)))
        return asdict(found)

    # -- parts ------------------------------------------------------------------------------------------

    def _bundle(self, bundle_id: str) -> Bundle:
        if bundle_id not in self._bundles:
            self._bundles[bundle_id] = self._references.bundle(bundle_id)
        return self._bundles[bundle_id]

    def _channels(self) -> list[dict[str, Any]]:
        found = []
        with contextlib.suppress(FstError, OSError):
            for channel in self._references.releases.channels():
                views = []
                with contextlib.suppress(FstError, OSError, KeyError, TypeError):
                    views = load_releases(channel.history, self._bundle)
                moves = [
                    {
                        "bundle": view.entry.bundle,
                        "action": view.entry.action,
                        "at": view.entry.at,
                        "reason": view.entry.reason,
                        "trained_on": view.trained_on,
                        "rewards": {domain: cell.reward for domain, cell in view.cells.items()},
                        "difference": view.difference if view.decision else None,
                    }
                    for view in views
                ]
                found.append({"name": channel.name, "bundle": channel.bundle, "before": channel.before, "moves": moves})
        return found

    def _follow(self) -> None:
        with contextlib.suppress(FstError, OSError):
            records, self._position = read(self._places.root / self._params.traffic.folder, self._position)
            for record in records:
                if isinstance(record, Request) and record.variant != "shadow":
                    self._asked[record.id] = record
                    key = (int(record.at // BIN_SECONDS), record.domain or "unknown")
                    self._counts[key] = self._counts.get(key, 0) + 1
                elif isinstance(record, Feedback) and record.reward is not None and record.id in self._asked:
                    asked = self._asked[record.id]
                    key = (int(asked.at // BIN_SECONDS), asked.domain or "unknown")
                    self._bins.setdefault(key, []).append(record.reward)
            while len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
            oldest = max((number for number, _ in self._counts), default=0) - SHOWN_SECONDS / BIN_SECONDS
            self._counts = {key: value for key, value in self._counts.items() if key[0] >= oldest}
            self._bins = {key: value for key, value in self._bins.items() if key[0] >= oldest}

    def _traffic(self) -> dict[str, Any]:
        series: dict[str, list[Any]] = {}
        for (number, domain), count in sorted(self._counts.items()):
            rewards = self._bins.get((number, domain), [])
            mean = round(sum(rewards) / len(rewards), 4) if rewards else None
            series.setdefault(domain, []).append([number * BIN_SECONDS, count, mean, len(rewards)])
        return series

    def _drift(self) -> list[dict[str, Any]]:
        return list(islice(read_back(self._places.monitoring / "windows.jsonl"), MOST))[::-1]

    def _alerts(self) -> list[dict[str, Any]]:
        """Alerts, the latest first, each with its report and the steps of the adaptation that it started."""
        folder = self._places.monitoring
        alerts = list(islice(read_back(folder / ALERTS), MOST))
        steps = list(read_lines(folder / ADAPTATIONS))
        reports = sorted((self._places.root / "reports" / "evidently").glob("*.html"))
        for alert in alerts:
            key = (alert.get("domain"), alert.get("channel"), alert.get("at"))
            alert["steps"] = [s for s in steps if (s.get("domain"), s.get("channel"), s.get("alert")) == key]
            after = [page for page in reports if page.name.startswith(f"{alert.get('channel')}-")]
            after = [page for page in after if page.stat().st_mtime >= float(alert.get("at", 0))]
            alert["report"] = f"/reports/evidently/{after[0].name}" if after else ""
        return alerts

    def _prompts(self) -> dict[str, Any]:
        """The prompts in force and their ancestors, by channel and domain."""
        found: dict[str, Any] = {}
        with contextlib.suppress(FstError, OSError):
            for channel in self._references.releases.channels():
                if channel.bundle:
                    found[channel.name] = {
                        domain: {kind: [_prompt(p) for p in served[kind]] for kind in ("prompts", "ancestry")}
                        for domain, served in self._bundle(channel.bundle).prompts().items()
                    }
        return found

    def _curves(self) -> dict[str, list[list[float]]]:
        curves = {}
        for file in sorted(self._places.curve("any").parent.glob("*.csv")):
            with contextlib.suppress(OSError, ValueError, KeyError), file.open(encoding="utf-8") as lines:
                rows = [[float(r[key]) for key in ("rollouts", "accuracy", "kl")] for r in csv.DictReader(lines)]
                curves[file.stem] = rows
        return curves

    def _links(self) -> dict[str, str]:
        links = {"figures for Prometheus": "/metrics", "health": "/healthz"}
        api = os.environ.get("PREFECT_API_URL", "")
        if ui := os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api"):
            links = {"Prefect": ui, **links}
        return links


def waits(alert: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]], channels: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an alert is still unanswered: since it was raised its channel was not moved, and no adaptation of its
    domain began, or the last one failed. `alerts` has all alerts, each with the steps of its adaptation."""
    raised, about = float(alert.get("at", 0)), (alert.get("domain"), alert.get("channel"))
    steps = [
        step for other in alerts if (other.get("domain"), other.get("channel")) == about for step in other["steps"]
    ]
    later = sorted((float(step.get("at", 0)), str(step.get("event"))) for step in steps)
    answered = bool(later) and later[-1][0] >= raised and later[-1][1] != "failed"
    moves = [move["at"] for channel in channels if channel["name"] == about[1] for move in channel["moves"]]
    return not answered and not any(datetime.fromisoformat(at).timestamp() >= raised for at in moves)


def _prompt(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values.get(key) for key in ("id", "text", "parents", "origin", "born", "score")}
