"""Deployments: what starts the flows by itself. A schedule for `continual`, an event for a domain that arrives."""

from __future__ import annotations

from typing import Any

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger, emit_event
from prefect.events.schemas.events import Event

from pipelines.flows import continual

ARRIVED = "fst.domain.arrived"


def deployments(cron: str, root: str) -> list[Any]:
    """`nightly` goes through every domain of params.yaml, which costs seconds where nothing changed; `on-arrival` takes
    the domain that an event names. A run of the same deployment that is under way is waited for."""
    place = {"root": root}
    one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    arrival = DeploymentEventTrigger(
        name="a domain arrives",
        expect={ARRIVED},
        match={"prefect.resource.id": "fst.domain.*"},
        parameters={"domains": ["{{ event.payload.name }}"], **place},
    )
    return [
        continual.to_deployment("nightly", cron=cron, parameters=place, concurrency_limit=one_at_a_time),
        continual.to_deployment("on-arrival", triggers=[arrival], concurrency_limit=one_at_a_time),
    ]


def serve_all(cron: str, root: str) -> None:
    """Register the deployments and run what they start, until stopped."""
    serve(*deployments(cron, root))


def announce(name: str) -> Event | None:
    """Say that a domain of params.yaml has arrived: starts `continual` for it where the deployments are served."""
    return emit_event(ARRIVED, resource={"prefect.resource.id": f"fst.domain.{name}"}, payload={"name": name})
