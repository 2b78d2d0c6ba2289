"""The commands of the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fst.cli.cli_pipeline import add_params_options

Says = Callable[[str, str], dict[str, Any]]


def add_serve_commands(commands: Any, says: Says) -> None:
    """Add the parsers to `commands`; `says` makes a command's help from what it does and an example."""
    serve = commands.add_parser(
        "serve",
        **says(
            "serve a channel's release over an OpenAI-compatible API, with a page for people at /; a new release of "
            "the channel is swapped in without dropping a request",
            "serve --channel prod --set serve.port=8080",
        ),
    )
    serve.add_argument("--channel", help="which channel (default: store.channel of params.yaml)")
    add_params_options(serve)

    keys = commands.add_parser("keys", help="API keys of the gateway: add")
    actions = keys.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", **says("make a key and print it once; the file keeps its digest", "keys add alice"))
    add.add_argument("tenant", help="whom the key stands for")
    add.add_argument("--admin", action="store_true", help="a key that may roll a release back")
    add.add_argument("--file", type=Path, help="key file (default: serve.keys of params.yaml, else keys.json)")
    add_params_options(add)
