"""Deployments: what starts the flows. A schedule and the event of a new domain start `continual`; an alert about live
traffic starts `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger, emit_event
from prefect.events.schemas.events import Event

from pipelines.adapt import adapt
from pipelines.flows import continual
from pipelines.project import Project

ARRIVED = "fst.domain.arrived"
ALERT = "fst.drift.alert"


def deployments(cron: str, root: str) -> list[Any]:
    """Three deployments. `nightly` goes through every domain of params.yaml, which takes seconds where nothing changed;
    `on-arrival` takes the domain that an event names; `on-alert` adapts the domain that an alert is about, once per
    cool-down of the alerts. A run waits for an earlier run of the same deployment."""
    place = {"root": str(Path(root).resolve())}
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    arrival = DeploymentEventTrigger(
        name="a domain arrives",
        expect={ARRIVED},
        match={"prefect.resource.id": "fst.domain.*"},
        parameters={"domains": ["{{ event.payload.name }}"], **place},
    )
    patience = Project(root).params.drift.cool_down_seconds
    alert = DeploymentEventTrigger(
        name="traffic drifts",
        expect={ALERT},
        match={"prefect.resource.id": "fst.served.*"},
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=patience),
        parameters={key: "{{ event.payload." + key + " }}" for key in ("domain", "channel", "at", "since")} | place,
    )
    return [
        continual.to_deployment("nightly", cron=cron, parameters=place, concurrency_limit=one_at_a_time),
        continual.to_deployment("on-arrival", triggers=[arrival], concurrency_limit=one_at_a_time),
        adapt.to_deployment("on-alert", triggers=[alert], concurrency_limit=one_at_a_time),
    ]


def serve_all(cron: str, root: str) -> None:
    """Register the deployments and run what they start, until stopped."""
    serve(*deployments(cron, root))


def raise_alert(alert: Mapping[str, Any]) -> Event | None:
    """Emit the event that live traffic drifted, which starts `adapt` where the deployments are served. `alert` has
    `domain`, `channel`, `at` and `since` (seconds since the epoch); other keys are passed on."""
    resource = {"prefect.resource.id": f"fst.served.{alert['channel']}.{alert['domain']}"}
    return emit_event(ALERT, resource=resource, payload=dict(alert))


def announce(name: str) -> Event | None:
    """Emit the event that a domain of params.yaml is new, which starts `continual` for it where the deployments are
    served."""
    return emit_event(ARRIVED, resource={"prefect.resource.id": f"fst.domain.{name}"}, payload={"name": name})
