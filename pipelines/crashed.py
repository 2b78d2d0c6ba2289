"""Runs that were killed: Prefect hears of a run that fails, and not of one whose process is gone. Every run sends a
heartbeat; an automation on the server calls a run without one crashed, which frees the place that it held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_logger

NAME = "fst: a run that was killed"
SILENCE_SECONDS = 180.0  # longer than a server takes to be started again: a run that lives is left alone


def mark_the_killed(silence_seconds: float = SILENCE_SECONDS, name: str = NAME) -> None:
    """Have the server call a run crashed that sent a heartbeat and then, for so long (at least 10 s), neither another
    one nor its end. An automation of this name that is there stays as it was set; a server that takes none is worth a
    warning."""
    with get_client(sync_client=True) as client, _warns():
        if client.read_automations_by_name(name):
            return
        trigger = EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},  # another heartbeat, or the state that it ended in
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_seconds),
        )
        crash = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="its process was killed")
        client.create_automation(AutomationCore(name=name, trigger=trigger, actions=[crash]))


@contextmanager
def _warns() -> Iterator[None]:
    try:
        yield
    except PrefectHTTPStatusError as error:  # Prefect Cloud limits the number of automations, and who may make them
        get_logger("fst").warning("a run that is killed will stay `Running`: no automation could be made (%s)", error)
