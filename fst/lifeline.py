"""Ending in time: SIGTERM ends a command in order, and a command that DVC started ends with DVC.

`dvc repro` that is terminated leaves the commands of its stages alive, without a parent. A stage that went on like
that would hold its run folder, and be trained twice at the next `dvc repro`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
_POLL_SECONDS = 0.5


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt, nothing on the way up should take it for an error."""


def hold() -> None:
    """Turn SIGTERM into Terminated; under DVC, send it to ourselves when DVC is gone. Main thread only."""
    signal.signal(signal.SIGTERM, _terminate)
    if "DVC_STAGE" in os.environ:
        threading.Thread(target=_watch, args=(_ancestors(),), daemon=True).start()


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
