"""The commands that watch live traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fst.cli.cli_pipeline import add_params_options

Says = Callable[[str, str], dict[str, Any]]


def add_monitor_commands(commands: Any, says: Says) -> None:
    """Add the parsers to `commands`; `says` makes a command's help from what it does and an example."""
    monitor = commands.add_parser(
        "monitor",
        **says(
            "watch the traffic log for drift from the served release's own validation traffic, and for new domains; "
            "alerts go to the channels of params.yaml and to reports/monitoring/",
            "monitor --channel prod",
        ),
    )
    monitor.add_argument("--channel", help="whose release is served (default: store.channel of params.yaml)")
    monitor.add_argument("--once", action="store_true", help="judge what came since the last look, then end")
    monitor.add_argument(
        "--report", action="store_true", help="write an Evidently report on the latest window, then end"
    )
    add_params_options(monitor)
