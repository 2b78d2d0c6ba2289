"""Parameters that are secrets: they name a variable of the environment instead of holding its value."""

from __future__ import annotations

import os

from fst.errors import ConfigError


def from_environment(key: str, value: str) -> str:
    """A parameter's value, or that of the environment variable which it names as `env:NAME`. Raises ConfigError naming
    the parameter's key where the environment has none."""
    if not value.startswith("env:"):
        return value
    found = os.environ.get(value.removeprefix("env:"))
    if not found:
        raise ConfigError(f"{key}: the environment has no {value.removeprefix('env:')}; set it, or clear the parameter")
    return found
