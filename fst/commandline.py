"""What `fst` and `python -m pipelines` share: how a command line is set up, and how a command ends.

Commands are typed functions; cyclopts reads their options from the signature and their help from the docstring.
Exit codes: 0, those of fst/errors.py (2 for a wrong argument too), 4 for a full disk, 130 for Ctrl-C, 143 for SIGTERM.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from fst.errors import FstError
from fst.extras import DISTRIBUTION, require
from fst.lifeline import Terminated

Command = TypeVar("Command", bound=Callable[..., None])

_ANEW = "the same command starts it anew; nothing is half-written"
_AGAIN: dict[Callable[..., Any], str] = {}


def application(name: str, text: str) -> App:
    """A command line without commands; `text` is its help."""
    default = Parameter(negative=(), show_default=_default)
    return App(name=name, help=text, version=_version, default_parameter=default, help_format="plaintext")


def goes_on(sentence: str) -> Callable[[Command], Command]:
    """Mark a command that does not start anew when it is called again; `sentence` says what it does instead."""

    def mark(command: Command) -> Command:
        _AGAIN[command] = sentence
        return command

    return mark


def execute(app: App, arguments: Sequence[str] | None, extra: str = "") -> int:
    """Run the command that the arguments (default: those of the process) ask for; all of them need the extra, if one is
    given. Returns the exit code; an error that the user can mend is one sentence on stderr."""
    again = _ANEW
    try:
        tokens = sys.argv[1:] if arguments is None else arguments
        command, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
        again = _AGAIN.get(command, _ANEW)
        if extra:
            require(extra)
        command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        return _say(_mistake(app, error), FstError.exit_code)
    except FstError as error:
        return _say(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _say(f"the disk is full ({error}); free space, then {again}", 4)
    except KeyboardInterrupt:
        return _say(f"stopped; {again}", 130)
    except Terminated:
        return _say(f"stopped; {again}", 143)
    return 0


def _say(sentence: str, exit_code: int) -> int:
    print(f"fst: {sentence}", file=sys.stderr)
    return exit_code


def _mistake(app: App, error: CycloptsError) -> str:
    """A wrong argument, what was probably meant, and where to read more."""
    text = str(error).partition(" Available commands:")[0]
    if isinstance(error, UnusedCliTokensError):
        text = f"Unexpected argument: {' '.join(error.unused_tokens or ())}."
    command = " ".join((app.name[0], *(error.command_chain or ())))
    return f"{text[:1].lower()}{text[1:]} See `{command} --help`."


def _default(value: Any) -> str | None:
    """A default as it would be typed; None where there is nothing to type."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or None
    return None if value is None or isinstance(value, bool) else str(value)


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown: not installed"
