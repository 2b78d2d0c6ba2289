"""Processes that run beside this one and end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fst.errors import FstError
from fst.lifeline import WATCHED

GRACE_SECONDS = 20.0


class NotReady(FstError):
    """A process that was started beside this one ended, or was not ready in time."""

    exit_code = 3


@contextmanager
def beside(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the block runs, and no longer than this process lives: in `folder`, in a process group of its
    own, its output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            (*WATCHED, *command),
            cwd=folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Wait until `ready` holds. Raises NotReady, with the end of the log, when the process ends or time is up."""
    limit = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > limit:
            why = "ended" if process.poll() is not None else f"was not ready after {seconds:g} s"
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise NotReady(f"`{_said(process)}` {why}; the end of {log}:\n{tail}")
        time.sleep(0.1)


def _said(process: subprocess.Popen[bytes]) -> str:
    """The command as it was asked for."""
    return " ".join(list(map(str, process.args))[len(WATCHED) :])  # type: ignore[arg-type]


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, grace in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            break
    if process.stdin:
        process.stdin.close()
