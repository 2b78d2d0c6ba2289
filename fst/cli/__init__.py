"""The command line. Every command's --help says what it does and shows an example."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fst.telemetry import silence

silence()

from fst.cli.cli_claims import add_claims_command  # noqa: E402
from fst.cli.cli_live import add_live_commands  # noqa: E402  (silence comes first)
from fst.cli.cli_monitor import add_monitor_commands  # noqa: E402
from fst.cli.cli_pipeline import add_params_options, add_pipeline_commands  # noqa: E402  (silence comes first)
from fst.cli.cli_serve import add_serve_commands  # noqa: E402
from fst.cli.lifeline import Terminated, hold  # noqa: E402
from fst.cli.options import ARMS, DEFAULT_ARM, DEFAULT_DOMAIN  # noqa: E402
from fst.errors import FstError  # noqa: E402

HANDLERS = (
    "commands",
    "commands_pipeline",
    "commands_live",
    "commands_serve",
    "commands_monitor",
    "commands_claims",
)  # where the commands' functions are
_GO_ON = "the same command goes on from the last completed round"


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    add_params_options(parser)
    parser.add_argument("--model", help="directory or hub id of the policy; overrides model.base")
    parser.add_argument("--runs", type=Path, help="folder of run folders (default: runs)")
    parser.add_argument("--quiet", action="store_true", help="no progress display")


def _says(what: str, example: str) -> dict[str, Any]:
    """A command's help: in the list of commands, above its options, and an example below them."""
    return {"help": what, "description": what, "epilog": f"example: fst {example}"}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from fst.data.domains import describe_families

    families = "\n".join(f"  {example:34} {sentence}" for example, sentence in describe_families())
    parser = argparse.ArgumentParser(
        prog="fst", description="Fast-Slow Training: prompts and weights learn from one reward."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser(
        "train",
        help="train one arm on one domain",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train one arm on one domain and record everything under runs/<id>/. With the name of a domain of\n"
        "params.yaml: the stage `train` of dvc.yaml, which takes arm and seed from params.yaml too, builds on the\n"
        "bundle of the domain before it, and writes models/trained/<name>/.",
        epilog=f"domains:\n{families}\n\nexample:\n  fst train --arm fst --domain {DEFAULT_DOMAIN} --seed 0\n"
        "  fst train sort_add",
    )
    train.add_argument("name", nargs="?", help="a domain of params.yaml: run its stage")
    train.add_argument(
        "--arm", choices=ARMS, help=f"fst: both; rl: slow weights only; gepa: prompts only (default: {DEFAULT_ARM})"
    )
    source = train.add_mutually_exclusive_group()
    source.add_argument("--domain", help=f"domain spec, see below (default: {DEFAULT_DOMAIN})")
    source.add_argument("--data", type=Path, help="a JSONL file of your own problems")
    train.add_argument("--seed", type=int, help="seed of everything that is drawn (default: 0)")
    train.add_argument("--run", help="name of the run folder (default: from domain, arm and seed)")
    train.add_argument(
        "--resume", action="store_true", help="go on from the last completed round; a stage does so anyway"
    )
    train.set_defaults(again="the same command with --resume goes on from the last completed round")
    _add_training_options(train)

    run = commands.add_parser(
        "run",
        help="all arms on a domain, then the report",
        description="Train the three arms on each domain and seed, write the report and print the closing table. "
        "A run that was cut off goes on; one that ended is kept.",
        epilog="example: fst run --seeds 0 1 2 --out reports/mine",
    )
    run.add_argument("--domain", action="append", help=f"repeatable (default: {DEFAULT_DOMAIN})")
    run.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    run.add_argument("--seeds", nargs="+", type=int, default=[0])
    run.add_argument("--out", type=Path, default=Path("reports/run"), help="report folder (default: %(default)s)")
    run.set_defaults(again=_GO_ON)
    _add_training_options(run)

    report = commands.add_parser(
        "report", **_says("HTML page, PNGs and summary.json from run folders", "report runs/* --out reports/mine")
    )
    report.add_argument(
        "folders",
        nargs="*",
        type=Path,
        help="run folders, finished or not (default: those of the domains in params.yaml, with the other arms' runs on "
        "the same domains, and the releases of its channel)",
    )
    report.add_argument("--out", type=Path, default=Path("reports/run"))
    report.add_argument("--title", default="Fast-Slow Training")
    add_params_options(report)

    evaluate = commands.add_parser(
        "evaluate",
        **_says(
            "mean@n and drift of a run's last checkpoint on its validation or test split; for a domain of params.yaml, "
            "the stage `evaluate`: every domain that would be served, on its test split",
            "evaluate runs/lab-sort-desc-add-one-fst-s0 --split validation, or: fst evaluate sort_add",
        ),
    )
    evaluate.add_argument("target", help="a run folder, or a domain of params.yaml")
    evaluate.add_argument("--split", choices=("validation", "test"), help="of a run (default: test)")
    evaluate.add_argument("--prompt", help="evaluate a run under this prompt instead of its best")
    add_params_options(evaluate)

    add_pipeline_commands(commands, _says)
    add_serve_commands(commands, _says)
    add_live_commands(commands, _says)
    add_monitor_commands(commands, _says)
    commands.add_parser("doctor", **_says("what is missing, and for what", "doctor"))

    base = commands.add_parser("lab-base", help="the lab's base model")
    actions = base.add_subparsers(dest="action", required=True)
    build = actions.add_parser(
        "build",
        **_says(
            "pretrain it from nothing (about an hour on two cores); goes on if it was cut off",
            "lab-base build --out my_base",
        ),
    )
    build.add_argument("--out", type=Path, help="folder to write (default: the one that ships)")
    build.add_argument("--steps", type=int, help="fewer steps, for a try")
    build.set_defaults(again="the same command goes on where it was cut off")
    card = actions.add_parser("card", **_says("measure what it can do (the lab card)", "lab-base card"))
    card.add_argument("--model", default="lab")

    bench = commands.add_parser("bench", help="measurements against the plain libraries")
    kinds = bench.add_subparsers(dest="action", required=True)
    speed = kinds.add_parser(
        "speed", **_says("RL step against plain TRL, and a fast round's generation", "bench speed --steps 6")
    )
    speed.add_argument("--steps", type=int, default=12, help="steps of each trainer (default: %(default)s)")
    sampling = kinds.add_parser(
        "rollouts", **_says("the engine's tokens a second against model.generate as TRL calls it", "bench rollouts")
    )
    sampling.add_argument("--blocks", type=int, default=7, help="alternating blocks (default: %(default)s)")
    add_params_options(sampling)
    serving = kinds.add_parser(
        "serve",
        **_says(
            "what the gateway costs over the engine alone; with --minutes also a soak: load while releases come and go "
            "and the engine is killed",
            "bench serve --minutes 10",
        ),
    )
    serving.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: %(default)s)")
    serving.add_argument("--minutes", type=float, default=0.0, help="of the soak (default: none)")
    add_params_options(serving)
    drift = kinds.add_parser(
        "drift", **_says("false alarms and detections of the watcher, on simulated traffic of the lab", "bench drift")
    )
    drift.add_argument("--windows", type=int, default=200, help="without drift (default: %(default)s)")
    drift.add_argument("--trials", type=int, default=40, help="of each detection (default: %(default)s)")
    add_params_options(drift)
    add_claims_command(kinds, _says)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `fst`. Errors that a user can mend are one sentence on stderr and the exit code of fst/errors.py;
    4 is a full disk, 130 Ctrl-C and 143 SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        hold()
    again = "the same command starts it anew; nothing is half-written"
    try:
        options = build_parser().parse_args(arguments)
        again = getattr(options, "again", again)
        _handler(options)(options)
    except FstError as error:
        print(f"fst: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"fst: the disk is full ({error}); free space, then {again}", file=sys.stderr)
        return 4
    except (KeyboardInterrupt, Terminated) as stopped:
        print(f"fst: stopped; {again}", file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    return 0


def _handler(options: argparse.Namespace) -> Callable[[argparse.Namespace], None]:
    """The function of a command, which has its name: `lab-base build` is lab_base_build."""
    name = "_".join(filter(None, (options.command.replace("-", "_"), getattr(options, "action", None))))
    modules = (importlib.import_module(f"fst.cli.{module}") for module in HANDLERS)
    handler: Callable[[argparse.Namespace], None] = next(getattr(m, name) for m in modules if hasattr(m, name))
    return handler


if __name__ == "__main__":
    sys.exit(main())
