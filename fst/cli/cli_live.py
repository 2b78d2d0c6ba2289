"""The commands around live traffic: sending it, and learning from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fst.cli.cli_pipeline import add_params_options

Says = Callable[[str, str], dict[str, Any]]


def add_live_commands(commands: Any, says: Says) -> None:
    """Add the parsers to `commands`; `says` makes a command's help from what it does and an example."""
    simulate = commands.add_parser(
        "simulate",
        **says(
            "send a traffic scenario (domains, mix over time, rate, share of feedback) at a gateway and print what "
            "came back; every exchange is written down",
            "simulate data/scenarios/new_domain.yaml --url http://127.0.0.1:8080",
        ),
    )
    simulate.add_argument(
        "scenario", type=Path, help="a scenario file; data/scenarios/ has one with every key explained"
    )
    simulate.add_argument("--url", default="http://127.0.0.1:8080", help="the gateway (default: %(default)s)")
    simulate.add_argument(
        "--key-env", default="FST_API_KEY", help="environment variable with the API key (default: %(default)s)"
    )
    simulate.add_argument(
        "--out", type=Path, default=Path("reports/simulated.jsonl"), help="record, a line an exchange (%(default)s)"
    )
    simulate.add_argument("--quiet", action="store_true", help="no progress display")

    ingest = commands.add_parser(
        "ingest",
        **says(
            "turn scored traffic of a domain into a problem file that DVC versions (data/traffic/), validated by the "
            "data suites (exit code 5: they found something)",
            "ingest --from-log letters",
        ),
    )
    ingest.add_argument(
        "--from-log", metavar="DOMAIN", required=True, help="a domain that is served, or a new one's name"
    )
    ingest.add_argument("--since", type=float, default=0.0, help="seconds since the epoch; older traffic is left out")
    ingest.add_argument("--no-dvc", action="store_true", help="write and validate the file, do not `dvc add` it")
    add_params_options(ingest)
