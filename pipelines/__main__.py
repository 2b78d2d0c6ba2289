"""`python -m pipelines`: run a flow now, or deploy all of them with their schedules and triggers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from fst.commandline import application, execute, goes_on
from fst.lifeline import hold

Root = Annotated[str, Parameter(help="Folder of params.yaml and dvc.yaml.")]
Domains = Annotated[list[str], Parameter(help="Domains of params.yaml.")]
GOES_ON = "the same command goes on from the last completed round"

app = application(
    "python -m pipelines",
    "Run the flows of the pipeline on the Prefect server that PREFECT_API_URL names, or that is found at "
    "127.0.0.1:4200; without one, `deploy` starts one there, and a flow one for itself.",
)
flow = App(name="flow", help="Run one flow now.")
app.command(flow)


@flow.command
@goes_on(GOES_ON)
def continual(*domains: str, root: Root = ".") -> None:
    """Take domains one after another: prepare, train, evaluate, release.

    Where the gate refuses one, the others are done all the same; then the exit code is 5.

    Example: python -m pipelines flow continual sort_add letters

    Args:
        domains: Domains of params.yaml; all, in its order, if none is given.
    """
    from pipelines.flows import continual, outcome
    from pipelines.server import find

    find()
    print(json.dumps(outcome(continual(list(domains) or None, root, return_state=True)), indent=1))


@flow.command
def prepare(domains: Domains, /, *, root: Root = ".") -> None:
    """Prepare and validate a domain's problems.

    Example: python -m pipelines flow prepare sort_add
    """
    from pipelines.flows import prepare
    from pipelines.server import find

    find()
    for name in domains:
        prepare(name, root)


@flow.command
@goes_on(GOES_ON)
def train(domains: Domains, /, *, root: Root = ".") -> None:
    """Alternate fast and slow rounds, a task each.

    Example: python -m pipelines flow train sort_add
    """
    from pipelines.flows import train
    from pipelines.server import find

    find()
    for name in domains:
        train(name, root)


@flow.command
def evaluate(domains: Domains, /, *, root: Root = ".") -> None:
    """Measure every domain that would be served on held-out problems, then pack the bundle.

    Example: python -m pipelines flow evaluate sort_add
    """
    from pipelines.flows import evaluate
    from pipelines.server import find

    find()
    for name in domains:
        evaluate(name, root)


@flow.command
def release(domains: Domains, /, *, root: Root = ".") -> None:
    """Judge a domain's bundle; if it passes the gate, publish it and move the channel.

    A refusal is the state `Refused` at Prefect, and exit code 5.

    Example: python -m pipelines flow release sort_add
    """
    from pipelines.flows import outcome, release
    from pipelines.server import find

    find()
    for name in domains:
        outcome(release(name, root, return_state=True))


@flow.command
@goes_on(GOES_ON)
def adapt(domain: str, /, *, channel: str = "prod", since: float = 0.0, root: Root = ".") -> None:
    """Bring a domain of a release up to date from its traffic, or add it: what an alert starts.

    Example: python -m pipelines flow adapt letters --channel prod

    Args:
        domain: A domain that is served, or a new one's name in reports/monitoring/alerts.jsonl.
        channel: Channel whose release is adapted.
        since: Leave older traffic out; seconds since the epoch.
    """
    from pipelines.adapt import adapt
    from pipelines.server import find

    find()
    print(json.dumps(adapt(domain, channel, since=since, root=root), indent=1))


@app.command
def deploy(*, cron: str = "0 2 * * *", root: Root = ".") -> None:
    """Register the deployments and run what they start, until stopped.

    `continual` runs on a schedule; an event fst.domain.arrived with a payload
    {name: ...} starts it for one domain; an alert about live traffic starts `adapt`.
    Where no Prefect server is found, one is started, and ended with this command.

    Example: python -m pipelines deploy & python -m pipelines monitor

    Args:
        cron: Schedule of `continual`; every night if not given.
    """
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")  # seconds; the usual ten are long for an alert
    from pipelines.deployments import serve_all
    from pipelines.server import shared

    with shared(Path(root)):
        serve_all(cron, root)


@app.command
def monitor(*, channel: str = "prod", root: Root = ".") -> None:
    """Watch live traffic as `fst monitor` does, and have every alert answered by `adapt`.

    An alert waits until `python -m pipelines deploy` runs, and is asked for again until its
    adaptation has begun.

    Example: python -m pipelines monitor --channel prod

    Args:
        channel: Channel whose traffic is watched.
    """
    from pipelines.monitor import monitor

    monitor(Path(root), channel)


@app.command
def live(
    *, scenario: Path = Path("data/scenarios/new_domain.yaml"), domain: str | None = None, root: Root = "."
) -> None:
    """Run the closed loop on this machine: traffic, a new domain, alert, adaptation, gate, swap.

    Starts everything that serves, watches and adapts, sends a scenario in which a new
    domain appears, and writes what came of it to reports/live/. It uses the channel
    `live`.

    Example: python -m pipelines live

    Args:
        scenario: The traffic to send.
        domain: Domain whose release the channel begins with; the first of params.yaml if not given.
    """
    from pipelines.live import Live
    from pipelines.project import Project

    first = domain or next(iter(Project(root).params.domains))
    print(json.dumps(Live(Path(root).resolve(), scenario, first).run()["figures"], indent=1))


@app.command
def overhead(*, cycles: int = 25, root: Root = ".") -> None:
    """Measure what orchestration costs: the train flow against the plain command.

    Trains the first domain twice in a clone of the last commit, and prints the seconds
    of both. Point PREFECT_API_URL at a server that is up, or its start is counted too.

    Example: python -m pipelines overhead --cycles 25

    Args:
        cycles: Length of the training, in cycles.
    """
    from pipelines.overhead import overhead

    print("\n".join(overhead(Path(root), cycles)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes are those of `fst`; what fails for another reason is Prefect's report and exit code 1.
    SIGTERM ends what a command started, too."""
    hold()
    return execute(app, arguments, "pipelines")


if __name__ == "__main__":
    sys.exit(main())
