"""`python -m pipelines`: run a flow now, or serve all of them with their schedules and triggers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fst.errors import FstError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Flows of the pipeline. Without a Prefect server (PREFECT_API_URL) a flow starts one for itself.",
    )
    commands = parser.add_subparsers(dest="flow", required=True)
    for flow, says in FLOWS.items():
        one = commands.add_parser(
            flow, help=says, description=says, epilog=f"example: python -m pipelines {flow} sort_add"
        )
        one.add_argument("name", help="a domain of params.yaml")
        _add_common(one)
    says = "domains one after another: ingest, train, evaluate, release"
    continual = commands.add_parser(
        "continual", help=says, description=says, epilog="example: python -m pipelines continual sort_add letters"
    )
    continual.add_argument("names", nargs="*", help="domains of params.yaml (default: all, in its order)")
    _add_common(continual)
    serve = commands.add_parser(
        "serve",
        help="register the deployments with their schedule and triggers, and run what they start",
        description="Registers the deployments at the Prefect server of PREFECT_API_URL and runs what they start, "
        "until stopped. `continual` runs on a cron schedule; an event fst.domain.arrived with a payload {name: ...} "
        "starts it for one domain; an alert about live traffic (`python -m pipelines watch`) starts `adapt`.",
        epilog="example: prefect server start & PREFECT_API_URL=http://127.0.0.1:4200/api python -m pipelines serve",
    )
    serve.add_argument(
        "--cron", default="0 2 * * *", help="schedule of `continual` (default: every night, %(default)s)"
    )
    _add_common(serve)
    says = "bring a domain of a channel's release up to date from its traffic, or add it: what an alert starts"
    adapt = commands.add_parser(
        "adapt", help=says, description=says, epilog="example: python -m pipelines adapt letters --channel prod"
    )
    adapt.add_argument(
        "name", help="a domain that is served, or the name of a new one in reports/monitoring/alerts.jsonl"
    )
    adapt.add_argument("--channel", default="prod", help="whose release is adapted (default: %(default)s)")
    adapt.add_argument("--since", type=float, default=0.0, help="seconds since the epoch; older traffic is left out")
    _add_common(adapt)
    watch = commands.add_parser(
        "watch",
        help="watch live traffic for drift; every alert is a Prefect event",
        description="As `fst monitor`, and every alert is also an event at the Prefect server of PREFECT_API_URL, "
        "which starts `adapt` where `python -m pipelines serve` runs.",
        epilog="example: PREFECT_API_URL=http://127.0.0.1:4200/api python -m pipelines watch --channel prod",
    )
    watch.add_argument("--channel", default="prod", help="whose release is served (default: %(default)s)")
    _add_common(watch)
    live = commands.add_parser(
        "live",
        help="the closed loop on this machine: traffic, a new domain, alert, adaptation, gate, swap",
        description="Starts everything that serves, watches and adapts, sends a traffic scenario in which a new domain "
        "appears, and writes what came of it to reports/live/. The channel `live` is used for it.",
        epilog="example: python -m pipelines live",
    )
    live.add_argument(
        "--scenario", type=Path, default=Path("data/scenarios/new_domain.yaml"), help="(default: %(default)s)"
    )
    live.add_argument("--domain", help="whose release the channel begins with (default: the first of params.yaml)")
    _add_common(live)
    bench = commands.add_parser(
        "bench",
        help="what orchestration costs: the train flow against the plain CLI",
        description="Trains the first domain twice in a clone of the last commit, by the plain CLI and by the flow, "
        "and prints the seconds of both. Point PREFECT_API_URL at a server that is up, or its start is counted too.",
        epilog="example: python -m pipelines bench --cycles 25",
    )
    bench.add_argument("--cycles", type=int, default=25, help="length of the training (default: %(default)s, minutes)")
    _add_common(bench)
    return parser


FLOWS = {
    "ingest": "prepare and validate a domain's problems",
    "train": "alternating fast and slow rounds, a task each",
    "evaluate": "held-out problems of every domain served, then the bundle",
    "release": "the gate, then the store and its channel",
}


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default=".", help="folder of params.yaml and dvc.yaml (default: here)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes are those of `fst`; what fails for another reason is Prefect's report and exit code 1."""
    options = build_parser().parse_args(arguments)
    try:
        run(options)
    except FstError as error:
        print(f"fst: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fst: stopped; the same command goes on from the last completed round", file=sys.stderr)
        return 130
    return 0


def run(options: argparse.Namespace) -> None:
    if options.flow == "bench":
        from pipelines.bench import overhead

        print("\n".join(overhead(Path(options.root), options.cycles)))
    elif options.flow == "serve":
        os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")  # seconds; the usual ten are long for an alert
        from pipelines.deployments import serve_all

        serve_all(options.cron, options.root)
    elif options.flow == "watch":
        from pipelines.watch import watch

        watch(Path(options.root), options.channel)
    elif options.flow == "live":
        from pipelines.live import Live
        from pipelines.project import Project

        domain = options.domain or next(iter(Project(options.root).params.domains))
        found = Live(Path(options.root).resolve(), options.scenario, domain).run()
        print(json.dumps(found["figures"], indent=1))
    elif options.flow == "adapt":
        from pipelines.adapt import adapt

        print(json.dumps(adapt(options.name, options.channel, since=options.since, root=options.root), indent=1))
    elif options.flow == "continual":
        from pipelines import flows

        released = flows.continual(options.names or None, options.root)
        print(json.dumps(released, indent=1))
    else:
        from pipelines import flows

        getattr(flows, options.flow)(options.name, options.root)


if __name__ == "__main__":
    sys.exit(main())
