"""Watching live traffic, with every alert an event at Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from fst.monitoring.follow import follow
from pipelines.deployments import raise_alert
from pipelines.project import Project


def monitor(root: Path, channel: str) -> NoReturn:
    """Watch a channel until stopped: `fst monitor`, whose alerts also become events."""
    project = Project(str(root))
    follow(project.params, project.places, channel, [lambda alert: raise_alert(alert.as_dict())])
