"""The commands of the pipeline: its stages, releases, and what is known about them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Says = Callable[[str, str], dict[str, Any]]

_REFERENCE = "a channel, an id or the beginning of one (6 digits or more), or the path of a bundle's folder"


def add_params_options(parser: argparse.ArgumentParser) -> None:
    """The parameter file and its overrides."""
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one parameter, e.g. loop.cycles=3"
    )


def add_pipeline_commands(commands: Any, says: Says) -> None:
    """Add the parsers to `commands`; `says` makes a command's help from what it does and an example."""
    _add_stages(commands, says)
    _add_releases(commands, says)
    _add_bundles(commands, says)
    _add_origins(commands, says)


def _add_stages(commands: Any, says: Says) -> None:
    prepare = commands.add_parser(
        "prepare",
        **says("deal a domain's problems into splits: data/prepared/<name>/", "prepare sort_add"),
    )
    prepare.add_argument("name", help="a domain of params.yaml")
    add_params_options(prepare)

    validate = commands.add_parser(
        "validate",
        **says(
            "run the data suites on a domain's prepared problems, or on a problem file of yours; offending rows are "
            "named, and exit code 5 says that there are some",
            "validate sort_add, or: fst validate --data my.jsonl",
        ),
    )
    source = validate.add_mutually_exclusive_group(required=True)
    source.add_argument("name", nargs="?", help="a domain of params.yaml")
    source.add_argument("--data", type=Path, help="a JSONL file of your own problems, before it is a domain")
    add_params_options(validate)

    bundle = commands.add_parser(
        "bundle",
        **says(
            "pack adapter, prompts and evaluation of a domain into a deployable folder: models/bundles/<name>/",
            "bundle sort_add, or for the untrained model: fst bundle base",
        ),
    )
    bundle.add_argument("name", help="a domain of params.yaml, or `base`")
    add_params_options(bundle)


def _add_releases(commands: Any, says: Says) -> None:
    release = commands.add_parser(
        "release",
        **says(
            "judge a domain's bundle against production; if it passes, publish it and move the channel to it "
            "(exit code 5: the gate refuses; 6: somebody else released meanwhile)",
            "release sort_add --dry-run",
        ),
    )
    release.add_argument("name", help="a domain of params.yaml, whose `bundle` stage was run")
    _add_channel(release)
    release.add_argument("--dry-run", action="store_true", help="the decision only; nothing is published or moved")
    add_params_options(release)

    rollback = commands.add_parser(
        "rollback",
        **says("move a channel back to the release before; again: further back", "rollback --channel prod --to 3f2a91"),
    )
    _add_channel(rollback)
    rollback.add_argument("--to", metavar="REF", help=f"a release that the channel had before: {_REFERENCE}")
    rollback.add_argument("--reason", default="", help="a sentence for the channel's history")
    add_params_options(rollback)


def _add_bundles(commands: Any, says: Says) -> None:
    bundles = commands.add_parser("bundles", help="the bundles of the store: list, show, diff, gc")
    actions = bundles.add_subparsers(dest="action", required=True)

    every = actions.add_parser("list", **says("every bundle of the store, the newest first", "bundles list"))
    show = actions.add_parser(
        "show", **says("one bundle: what it serves, its figures, its prompts, its gate", "bundles show prod")
    )
    show.add_argument("reference", metavar="REF", help=_REFERENCE)
    for parser in (every, show):
        parser.add_argument("--json", action="store_true", help="for programs")

    diff = actions.add_parser(
        "diff", **says("two bundles: prompts side by side, figures, parameters", "bundles diff 3f2a91 prod")
    )
    diff.add_argument("first", metavar="A", help=_REFERENCE)
    diff.add_argument("second", metavar="B", help="the same")

    collect = actions.add_parser(
        "gc",
        **says(
            "remove bundles that no channel points at or ever did, and uploads that were never finished",
            "bundles gc --older-than-hours 24 --dry-run",
        ),
    )
    collect.add_argument(
        "--older-than-hours", type=float, default=24.0, help="leave what is younger (default: %(default)g)"
    )
    collect.add_argument("--dry-run", action="store_true", help="say what would be removed")
    for parser in (every, show, diff, collect):
        add_params_options(parser)


def _add_origins(commands: Any, says: Says) -> None:
    explain = commands.add_parser(
        "explain",
        **says(
            "where a bundle comes from: commit, data, parameters, the bundles it builds on, the ancestry of its "
            "prompts, the gate's decision, and the commands that make it again",
            "explain prod",
        ),
    )
    explain.add_argument("reference", metavar="REF", help=_REFERENCE)
    explain.add_argument(
        "--print-params", action="store_true", help="only the params.yaml that it was made with, as YAML"
    )
    add_params_options(explain)

    reproduce = commands.add_parser(
        "reproduce",
        **says(
            "make a bundle again from its commit, its parameters and the data, and compare every byte "
            "(exit code 7: something differs, and what)",
            "reproduce prod",
        ),
    )
    reproduce.add_argument("reference", metavar="REF", help=_REFERENCE)
    reproduce.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="work in this new folder and leave it (default: a temporary one)"
    )
    reproduce.add_argument(
        "--allow-changes",
        action="store_true",
        help="use the commit of a bundle that was made from a working tree with changes, without them",
    )
    add_params_options(reproduce)


def _add_channel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channel", help="which channel (default: store.channel of params.yaml)")
