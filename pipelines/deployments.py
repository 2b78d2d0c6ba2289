"""Deployments: what starts the flows. A schedule and the event of a new domain start `continual`; an alert about live
traffic starts `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, FlowRun
from prefect.events import DeploymentEventTrigger, emit_event
from prefect.events.schemas.events import Event

from pipelines.adapt import adapt
from pipelines.flows import continual

ARRIVED = "fst.domain.arrived"
ON_ALERT = "on-alert"


def deployments(cron: str, root: str) -> list[Any]:
    """Three deployments. `nightly` goes through every domain of params.yaml, which takes seconds where nothing changed;
    `on-arrival` takes the domain that an event names; `on-alert` adapts the domain that an alert is about. A run waits
    for an earlier run of the same deployment."""
    place = {"root": str(Path(root).resolve())}
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
        adapt.to_deployment(ON_ALERT, parameters=place, concurrency_limit=one_at_a_time),
    ]


def serve_all(cron: str, root: str) -> None:
    """Register the deployments and run what they start, until stopped."""
    serve(*deployments(cron, root))


def ask_for_adaptation(alert: Mapping[str, Any]) -> FlowRun:
    """The run of `adapt` that answers an alert, created unless it is there. However often this is asked, an alert has
    one run that has not ended; where one ended (cancelled, crashed), the next follows it. `alert` has `domain`,
    `channel`, `at` and `since` (seconds since the epoch). Raises ObjectNotFound before the deployments are registered,
    and what httpx raises where no server answers."""
    parameters = {key: alert[key] for key in ("domain", "channel", "at", "since")}
    key = "alert {channel} {domain} {at!r}".format_map(alert)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"adapt/{ON_ALERT}").id
        while True:
            run = client.create_flow_run_from_deployment(deployment, parameters=parameters, idempotency_key=key)
            if run.state is None or not run.state.is_final():
                return run
            key = f"after {run.id}"


def announce(name: str) -> Event | None:
    """Emit the event that a domain of params.yaml is new, which starts `continual` for it where the deployments are
    served."""
    return emit_event(ARRIVED, resource={"prefect.resource.id": f"fst.domain.{name}"}, payload={"name": name})
