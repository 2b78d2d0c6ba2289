"""What the commands share: defaults, and reading the options that several of them take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fst.errors import ConfigError

if TYPE_CHECKING:
    from fst.config import Params

ARMS = ("fst", "rl", "gepa")
DEFAULT_ARM: Final = "fst"
DEFAULT_DOMAIN = "lab/sort_desc+add_one"


def read_params(options: argparse.Namespace) -> Params:
    """The parameter file, if there is one, with the overrides of the command line."""
    from fst.config import load_params

    path = options.params if options.params.exists() or options.params != Path("params.yaml") else None
    overrides = list(options.set)
    if getattr(options, "model", None):
        overrides.append(f"model.base={options.model}")
    return load_params(path, overrides)


def refuse_given(options: argparse.Namespace, keys: Sequence[str], why: str) -> None:
    """Raise ConfigError when one of these options was given: it would do nothing."""
    given = ", ".join(f"--{key}" for key in keys if getattr(options, key) not in (None, []))
    if given:
        raise ConfigError(f"{given}: {why}")
