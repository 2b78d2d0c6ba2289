"""What a run sends to OpenTelemetry (fst/spans.py) of what it puts on its record. A run is a span around its rounds and
evaluations (in a flow the task is), a round one around its steps; their figures are gauges `fst.<kind>.<figure>`."""

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
    """Send an event of the kinds in GAUGES, of the run of that name. Texts and lists stay on the record."""
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
