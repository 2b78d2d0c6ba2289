"""The timeline of live traffic while a new domain arrives: events, and the reward of each domain over time.

reports/live/timeline.json: {"scenario", "channel", "began" (s since the epoch), "newcomer", "events": [{"at" (s since
`began`), "what", "says"}], "bin_seconds", "bins": [{"at", "domain", "reward", "requests"}], "figures": {...}}. The
figures are in seconds from the newcomer's first request: see `figures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fst.traffic.simulate import Exchanged

BIN_SECONDS = 2.0  # the shortest interval
MOST_BINS = 50
RECOVERED = 0.8  # share of the attainable reward that counts as recovered
STEADY = 30  # fewest requests that the recovered reward may be a mean of


@dataclass(frozen=True)
class Happening:
    """An event: `at` is in seconds since the traffic began, `what` is its kind, `says` a sentence about it."""

    at: float
    what: str
    says: str


def happenings(
    began: float,
    exchanges: Sequence[Exchanged],
    alerts: Iterable[Mapping[str, Any]],
    steps: Iterable[Mapping[str, Any]],
) -> list[Happening]:
    """List the events in order: domains that appear, alerts, the steps of adaptations, releases that first answer."""
    found = []
    seen: set[str] = set()
    releases: list[str] = []
    for one in sorted(exchanges, key=lambda e: e.at):
        if one.domain not in seen:
            seen.add(one.domain)
            found.append(Happening(one.at - began, "appears", f"first request of {one.domain}"))
        if one.release and one.release not in releases:
            releases.append(one.release)
            if len(releases) > 1:
                found.append(Happening(one.at - began, "swapped", f"release {one.release[:12]} answers"))
    for alert in alerts:
        found.append(Happening(alert["at"] - began, "alert", f"{alert['kind'].replace('_', ' ')}: {alert['domain']}"))
    for step in steps:
        found.append(Happening(step["at"] - began, step["event"], _says(step)))
    return sorted(found, key=lambda h: h.at)


def _says(step: Mapping[str, Any]) -> str:
    event = step["event"]
    if event == "collected":
        return f"{step['problems']} problems from traffic"
    if event == "judged":
        return f"gate: {step['verdict']}, held-out reward {step['reward']:.3f}"
    if event in ("published", "released"):
        return f"bundle {step['bundle'][:12]}"
    if event == "failed":
        return str(step["error"])
    return {"started": "adaptation starts", "fast": "prompts evolved", "slow": "RL steps done"}.get(event, event)


def bin_width(began: float, exchanges: Sequence[Exchanged]) -> float:
    """Choose the length of an interval, in whole seconds, so that there are at most MOST_BINS."""
    last = max((one.at for one in exchanges), default=began) - began
    return max(BIN_SECONDS, float(math.ceil(last / MOST_BINS)))


def bins(began: float, exchanges: Iterable[Exchanged], seconds: float = BIN_SECONDS) -> list[dict[str, Any]]:
    """Compute the mean reward of each domain in intervals of `seconds`."""
    groups: dict[tuple[int, str], list[float]] = {}
    for one in exchanges:
        groups.setdefault((int((one.at - began) // seconds), one.domain), []).append(one.reward)
    return [
        {"at": (number + 0.5) * seconds, "domain": domain, "reward": sum(r) / len(r), "requests": len(r)}
        for (number, domain), r in sorted(groups.items())
    ]


def figures(
    exchanges: Sequence[Exchanged], newcomer: str, events: Sequence[Happening], began: float, attainable: float
) -> dict[str, Any]:
    """Compute the figures of a timeline: `detected_s`, `released_s` and `swapped_s` in seconds from the newcomer's
    first request (None: never); the number of its `scored` requests until the new release was swapped in; its mean
    reward `before` that, and `after` it without answers of earlier releases; the `attainable` reward, and whether it
    was `recovered`; `requests` and `failed` of all traffic."""
    mine = sorted((one for one in exchanges if one.domain == newcomer), key=lambda one: one.at)
    if not mine:
        return {"requests": len(exchanges), "failed": sum(one.status != 200 for one in exchanges)}
    first = mine[0].at - began

    def when(what: str) -> float | None:
        return next((event.at for event in events if event.what == what and event.at >= first), None)

    def delay(what: str) -> float | None:
        return None if (at := when(what)) is None else round(at - first, 2)

    edge = math.inf if (swapped := when("swapped")) is None else swapped
    before = [one for one in mine if one.at - began < edge]
    earlier = {one.release for one in exchanges if one.release and one.at - began < edge}
    after = [one for one in mine if one.at - began >= edge and one.release not in earlier]
    reward = _mean(after)
    return {
        "detected_s": delay("alert"),
        "released_s": delay("published"),
        "swapped_s": delay("swapped"),
        "scored": sum(one.told for one in before),
        "before": _mean(before),
        "after": reward,
        "attainable": round(attainable, 4),
        "recovered": len(after) >= STEADY and reward is not None and reward >= RECOVERED * attainable,
        "requests": len(exchanges),
        "failed": sum(one.status != 200 for one in exchanges),
    }


def shortfall(timeline: Mapping[str, Any]) -> str:
    """Describe how far a loop that did not recover came, in one sentence."""
    name, found = timeline["newcomer"], timeline["figures"]
    said = {event["what"]: event["says"] for event in timeline["events"]}
    if found.get("detected_s") is None:
        return f"no alert was raised about {name}"
    if "started" not in said:
        return "no adaptation began after the alert"
    if found.get("swapped_s") is None:
        last = [
            event
            for event in timeline["events"]
            if event["what"] in ("judged", "published", "refused", "failed", "released")
        ]
        return f"no new release answered; the adaptation's last word: {last[-1]['says'] if last else 'none'}"
    return f"its reward is {found['after']} where {found['attainable']} is attainable"


def as_dict(events: Sequence[Happening]) -> list[dict[str, Any]]:
    """Convert events to the form of timeline.json."""
    return [{**asdict(event), "at": round(event.at, 2)} for event in events]


def _mean(exchanges: Sequence[Exchanged]) -> float | None:
    return round(sum(one.reward for one in exchanges) / len(exchanges), 4) if exchanges else None
