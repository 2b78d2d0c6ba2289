"""The command line. Each command is a typed function; its options are the parameters, its help the docstring."""

from fst.telemetry import silence

silence()

from fst.cli.app import app, main  # noqa: E402  (silence comes first)

__all__ = ["app", "main"]
