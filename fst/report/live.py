"""The closed loop in the report: the time line of reports/live/timeline.json, drawn and told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fst.errors import RecordError
from fst.report.figures import COLOURS, INK, MEMBER, Figure, draw_one
from fst.traffic.timeline import BIN_SECONDS

SHOWN = {"alert": "alert", "started": "adapting", "published": "released", "swapped": "serving"}
_STYLE = (("rl", "s"), ("fst", "o"), ("gepa", "^"))


@dataclass(frozen=True)
class LiveView:
    """A time line with its figure."""

    timeline: dict[str, Any]
    figure: Figure

    @property
    def figures(self) -> dict[str, Any]:
        return dict(self.timeline["figures"])

    @property
    def headline(self) -> str:
        """What happened, in one sentence; nothing here but what was measured."""
        f = self.figures
        if f.get("swapped_s") is None:
            return f"{f['requests']} requests, {f['failed']} failed; no new release was served."
        kept = "recovered" if f["recovered"] else "did not recover"
        return (
            f"{f['swapped_s']:.0f} s and {f['scored']} scored requests after its first one, the new domain was served "
            f"by a release adapted to it: its reward {kept}, from {f['before']:.1%} to {f['after']:.1%} of an "
            f"attainable {f['attainable']:.1%}. {f['requests']} requests, {f['failed']} failed."
        )


def load_live(file: Path) -> LiveView | None:
    """The view of a time line; None where there is no file. Raises RecordError for a file of something else."""
    if not file.exists():
        return None
    try:
        timeline = json.loads(file.read_text(encoding="utf-8"))
        return LiveView(timeline, _figure(timeline))
    except (ValueError, KeyError, TypeError) as exc:
        raise RecordError(f"{file} is no time line ({exc}); make it with `python -m pipelines live`") from exc


def _labels(timeline: dict[str, Any]) -> list[tuple[float, str]]:
    """(seconds, text) of the events that are shown; those that would lie on each other share one."""
    shown = [event for event in timeline["events"] if event["what"] in SHOWN]
    apart = 0.05 * max((point["at"] for point in timeline["bins"]), default=0.0)
    found: list[tuple[float, str]] = []
    for event in shown:
        if found and event["at"] - found[-1][0] < apart:
            found[-1] = (found[-1][0], f"{found[-1][1]}, {SHOWN[event['what']]}")
        else:
            found.append((event["at"], SHOWN[event["what"]]))
    return found


def _figure(timeline: dict[str, Any]) -> Figure:
    domains = list(dict.fromkeys(point["domain"] for point in timeline["bins"]))
    domains.sort(key=lambda name: name == timeline["newcomer"])

    stretch = timeline.get("bin_seconds", BIN_SECONDS)

    def draw(axes: Axes, theme: str) -> None:
        for name, (colour, marker) in zip(domains, _STYLE, strict=False):
            points = [point for point in timeline["bins"] if point["domain"] == name]
            label = f"{name}, new" if name == timeline["newcomer"] else name
            xs, ys = [p["at"] for p in points], [p["reward"] for p in points]
            axes.plot(xs, ys, color=COLOURS[theme][colour], lw=2, marker=marker, ms=4, label=label)
        attainable = timeline["figures"].get("attainable")
        if attainable is not None:
            axes.axhline(attainable, color=MEMBER[theme], lw=1, ls=(0, (4, 3)), label="attainable")
        for at, says in _labels(timeline):
            axes.text(at, 1.04, says, rotation=35, fontsize=9, color=INK[theme])
        for event in timeline["events"]:
            if event["what"] in SHOWN:
                axes.axvline(event["at"], color=INK[theme], lw=0.8, alpha=0.6)
        axes.set(ylim=(-0.03, 1.03), xlabel="seconds of traffic", ylabel=f"reward, in stretches of {stretch:g} s")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    events = "; ".join(f"{event['at']:.0f} s: {event['what']}, {event['says']}" for event in timeline["events"])
    key = (str(timeline["newcomer"]), "live", "live")
    caption = "Live traffic: mean reward by domain, and what the system did about the new one by itself."
    return draw_one(key, "The closed loop", caption, f"Reward over time. {events}", draw)
