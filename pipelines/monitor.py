"""Watching live traffic, with a run of `adapt` for every alert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fst.monitoring.follow import follow
from pipelines.deployments import ask_for_adaptation
from pipelines.project import Project
from pipelines.server import find


def monitor(root: Path, channel: str) -> NoReturn:
    """Watch a channel as `fst monitor` does, until stopped, and ask Prefect for the adaptation of every alert."""
    project = Project(str(root))
    follow(project.params, project.places, channel, _ask)


def _ask(alert: Mapping[str, Any]) -> None:
    if find() is None:
        raise ConnectionError("no Prefect server")  # the next try may find one
    ask_for_adaptation(alert)
