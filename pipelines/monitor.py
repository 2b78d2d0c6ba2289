"""Watching live traffic, with an event at Prefect for every alert."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from fst.monitoring.follow import follow
from pipelines.deployments import raise_alert
from pipelines.project import Project


def monitor(root: Path, channel: str) -> NoReturn:
    """Watch a channel as `fst monitor` does, until stopped; every alert also becomes an event."""
    project = Project(str(root))
    follow(project.params, project.places, channel, [lambda alert: raise_alert(alert.as_dict())])
