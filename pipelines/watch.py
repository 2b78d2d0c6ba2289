"""Watching live traffic, with every alert an event at Prefect."""

from __future__ import annotations

from pathlib import Path

from fst.cli.commands_monitor import follow
from pipelines.deployments import raise_alert
from pipelines.project import Project


def watch(root: Path, channel: str) -> None:
    """Until stopped."""
    project = Project(str(root))
    follow(project.params, project.places, channel, [lambda alert: raise_alert(alert.as_dict())])
