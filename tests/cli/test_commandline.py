"""How a command ends: its exit code and the sentence on stderr, in this process and when a signal arrives."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fst.commandline import application, execute, goes_on
from fst.errors import ConfigError, GateRefused
from fst.lifeline import Terminated

FULL, OVER = OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "over")
ANEW = "the same command starts it anew; nothing is half-written"
AGAIN = "the same command goes on"


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (ConfigError("loop.cycle: unknown key"), 2, "loop.cycle: unknown key"),
        (GateRefused("no"), 5, "no"),
        (FULL, 4, "the disk is full ([Errno 28] No space left on device); free space, then {again}"),
        (
            OSError(errno.EDQUOT, "over"),
            4,
            f"the disk is full ([Errno {errno.EDQUOT}] over); free space, then {{again}}",
        ),
        (KeyboardInterrupt(), 130, "stopped; {again}"),
        (Terminated(), 143, "stopped; {again}"),
    ],
)
def test_a_command_ends_with_its_code_and_says_how_to_go_on(
    raised: BaseException, code: int, sentence: str, marked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    app = application("toy", "A toy.")

    def work() -> None:
        raise raised

    app.command(goes_on(AGAIN)(work) if marked else work)
    assert execute(app, ["work"]) == code
    assert capsys.readouterr() == ("", f"fst: {sentence.format(again=AGAIN if marked else ANEW)}\n")


def test_other_errors_are_bugs_and_not_hidden() -> None:
    app = application("toy", "A toy.")

    @app.command
    def work(kind: str, /) -> None:
        raise OSError(errno.EACCES, "denied") if kind == "os" else ValueError("a bug")

    with pytest.raises(PermissionError):
        execute(app, ["work", "os"])
    with pytest.raises(ValueError, match="a bug"):
        execute(app, ["work", "value"])
    assert execute(app, []) == 0


SERVED = """
import time
import signal
from fst.cli import app, main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored

@app.command
def wait() -> None:
    print("here", flush=True)
    time.sleep(60)

raise SystemExit(main(["wait"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_command_in_order(number: signal.Signals, code: int) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SERVED]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # cannot be: it was asked for above
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors == f"fst: stopped; {ANEW}\n"
