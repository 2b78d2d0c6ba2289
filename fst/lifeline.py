"""Ending in time: SIGTERM ends a command in order, a command that DVC started ends with DVC, and what a command
started ends with it, also when it is killed.

`dvc repro` that is terminated leaves the commands of its stages alive, without a parent. A stage that went on like
that would hold its run folder, and be trained twice at the next `dvc repro`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
_POLL_SECONDS = 0.5
# Before a command that is started with a pipe as its stdin and in a session of its own: SIGTERM reaches all of its
# processes when the pipe closes, also because this process was killed and could not close it.
WATCHED = ("/bin/sh", "-c", 'exec 3<&0; (cat <&3; kill 0) >/dev/null & exec "$@" 3<&- </dev/null', "sh")


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, nothing on the way up should take it for an error."""


def hold() -> None:
    """Turn SIGTERM into Terminated; under DVC, send it to ourselves when DVC is gone. Main thread only."""
    signal.signal(signal.SIGTERM, _terminate)
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch, args=(_ancestors(),), daemon=True).start()


def end_with_parent() -> None:
    """In a child that multiprocessing started: end at once when the parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent.sentinel,), daemon=True).start()


def _outlive(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def _ancestors() -> list[psutil.Process]:
    """Our parent; where that is a shell between DVC and us, the shell's parent too."""
    import psutil  # here, as only the stages of DVC need it

    parents = psutil.Process().parents()
    return parents[: 2 if parents and parents[0].name() in _SHELLS else 1]


def _watch(ancestors: list[psutil.Process]) -> None:
    parent = os.getppid()
    while os.getppid() == parent and all(process.is_running() for process in ancestors):
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
