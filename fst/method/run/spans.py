"""Sends a run's recorded events to OpenTelemetry (fst/spans.py). A run is a span around its rounds and evaluations (in
a flow, the task is that span), and a round is a span around its steps; figures are gauges `fst.<kind>.<figure>`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fst import spans

GAUGES = {
    "step": ("reward", "loss", "grad_norm", "kept_groups"),
    "evaluation": ("accuracy", "kl"),
    "round": ("reward",),
    "end": ("accuracy", "kl"),
}


def noted(kind: str, name: str, values: Mapping[str, Any]) -> None:
    """Send an event of the run `name` if its kind is in GAUGES. Texts and lists are not sent."""
    if kind not in GAUGES or not spans.on():
        return
    run = {"fst.run": name}
    found = {**run, **{f"fst.{key}": v for key, v in values.items() if isinstance(v, (int, float)) or key == "channel"}}
    if kind == "round":
        spans.describe(found)
    else:
        spans.done(kind, found, values["seconds"] if kind == "step" else 0.0)
    for key in GAUGES[kind]:
        if isinstance(value := values.get(key), (int, float)):
            spans.measure(f"fst.{kind}.{key}", value, run)
