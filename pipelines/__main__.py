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
Domains = Annotated[list[str], Parameter(help="Names of domains in params.yaml.")]
GOES_ON = "the same command goes on from the last completed round"

app = application(
    "python -m pipelines",
    "Run the pipeline's flows on a Prefect server: the one that PREFECT_API_URL names, or else one that is found at "
    "127.0.0.1:4200. If there is none, `deploy` starts one there, and a single flow starts a temporary one.",
)
flow = App(name="flow", help="Run one flow now.")
app.command(flow)


@flow.command
@goes_on(GOES_ON)
def continual(*domains: str, root: Root = ".") -> None:
    """Take domains one after another: prepare, train, evaluate, release.

    If the gate refuses the release of one domain, the other domains are still
    done, and the exit code is 5.

    Example: python -m pipelines flow continual sort_add letters

    Args:
        domains: Names of domains in params.yaml; all of them, in the order of that file, if none is given.
    """
    from pipelines.flows import continual, outcome
    from pipelines.server import find

    find()
    print(json.dumps(outcome(continual(list(domains) or None, root, return_state=True)), indent=1))


@flow.command
def prepare(domains: Domains, /, *, root: Root = ".") -> None:
    """Prepare and validate the problems of one or more domains.

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
    """Train one or more domains: alternate rounds that evolve prompts and rounds that train weights.

    Each round is a task of the flow.

    Example: python -m pipelines flow train sort_add
    """
    from pipelines.flows import train
    from pipelines.server import find

    find()
    for name in domains:
        train(name, root)


@flow.command
def evaluate(domains: Domains, /, *, root: Root = ".") -> None:
    """Evaluate what was trained on every domain that would be served, then pack the bundle.

    Example: python -m pipelines flow evaluate sort_add
    """
    from pipelines.flows import evaluate
    from pipelines.server import find

    find()
    for name in domains:
        evaluate(name, root)


@flow.command
def release(domains: Domains, /, *, root: Root = ".") -> None:
    """Judge a domain's bundle; if it passes the gate, publish it and move the channel to it.

    A channel, such as `prod`, points to the release that is served. If the gate
    refuses the bundle, the flow ends in the state `Refused`, with exit code 5.

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
    """Adapt a release to the traffic of one domain, or add a new domain to it.

    An alert starts the same flow.

    Example: python -m pipelines flow adapt letters --channel prod

    Args:
        domain: A domain that is served, or the name of a new one in reports/monitoring/alerts.jsonl.
        channel: The channel whose release is adapted.
        since: Use only traffic from this time on, in seconds since the epoch.
    """
    from pipelines.adapt import adapt
    from pipelines.server import find

    find()
    print(json.dumps(adapt(domain, channel, since=since, root=root), indent=1))


@app.command
def deploy(*, cron: str = "0 2 * * *", root: Root = ".") -> None:
    """Register the deployments with Prefect and run the flows that they start, until stopped.

    The flow `continual` runs on a schedule, and for a single domain whenever an
    event fst.domain.arrived with a payload {name: ...} arrives. An alert about
    live traffic starts `adapt`. If no Prefect server is found, this command
    starts one and stops it when it ends.

    Example: python -m pipelines deploy & python -m pipelines monitor

    Args:
        cron: When `continual` runs, as a cron expression; every night if not given.
    """
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")  # seconds; the usual ten are long for an alert
    from pipelines.deployments import serve_all
    from pipelines.server import shared

    with shared(Path(root)):
        serve_all(cron, root)


@app.command
def monitor(*, channel: str = "prod", root: Root = ".") -> None:
    """Watch live traffic as `fst monitor` does, and start `adapt` for every alert.

    `python -m pipelines deploy` must be running; an alert waits until it is. Each
    adaptation is requested again until it has begun.

    Example: python -m pipelines monitor --channel prod

    Args:
        channel: The channel whose traffic is watched.
    """
    from pipelines.monitor import monitor

    monitor(Path(root), channel)


@app.command
def live(
    *, scenario: Path = Path("data/scenarios/new_domain.yaml"), domain: str | None = None, root: Root = "."
) -> None:
    """Run the closed loop on this machine: traffic, a new domain, alert, adaptation, gate, swap.

    Starts everything that serves, watches and adapts, sends the traffic of a
    scenario in which a new domain appears, and writes the results to
    reports/live/. It uses the channel `live`.

    Example: python -m pipelines live

    Args:
        scenario: The traffic to send.
        domain: The domain whose release is served at first; the first one in params.yaml if not given.
    """
    from pipelines.live import Live
    from pipelines.project import Project

    first = domain or next(iter(Project(root).params.domains))
    print(json.dumps(Live(Path(root).resolve(), scenario, first).run()["figures"], indent=1))


@app.command
def overhead(*, cycles: int = 25, root: Root = ".") -> None:
    """Measure the time that orchestration adds: the flow `train` against the plain command.

    Trains the first domain of params.yaml both ways in a clone of the last
    commit, and prints how many seconds each took. Set PREFECT_API_URL to a
    running server; otherwise the time to start one is counted too.

    Example: python -m pipelines overhead --cycles 25

    Args:
        cycles: Length of the training, in cycles.
    """
    from pipelines.overhead import overhead

    print("\n".join(overhead(Path(root), cycles)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes are those of `fst`; any other failure is reported by Prefect and ends with exit code 1.
    SIGTERM also ends the processes that a command started."""
    hold()
    return execute(app, arguments, "pipelines")


if __name__ == "__main__":
    sys.exit(main())
