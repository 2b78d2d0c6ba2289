"""`python -m pipelines`: run a flow now, or serve all of them with their schedules and triggers."""

from __future__ import annotations

import argparse
import json
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
        "starts it for one domain.",
        epilog="example: prefect server start & PREFECT_API_URL=http://127.0.0.1:4200/api python -m pipelines serve",
    )
    serve.add_argument(
        "--cron", default="0 2 * * *", help="schedule of `continual` (default: every night, %(default)s)"
    )
    _add_common(serve)
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
        from pipelines.deployments import serve_all

        serve_all(options.cron, options.root)
    elif options.flow == "continual":
        from pipelines import flows

        released = flows.continual(options.names or None, options.root)
        print(json.dumps(released, indent=1))
    else:
        from pipelines import flows

        getattr(flows, options.flow)(options.name, options.root)


if __name__ == "__main__":
    sys.exit(main())
