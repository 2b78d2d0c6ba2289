"""Ending in time: SIGTERM ends a command in order, and a command that DVC started ends with DVC.

`dvc repro` that is terminated leaves the commands of its stages alive, without a parent. A stage that went on like
that would hold its run folder, and be trained twice at the next `dvc repro`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

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


def _ancestors() -> list[int]:
    """Our parent; where that is a shell between DVC and us, the shell's parent too."""
    parent = os.getppid()
    try:
        if Path(f"/proc/{parent}/comm").read_text().strip() in _SHELLS:
            return [parent, int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])]
    except OSError:
        pass  # not Linux: the parent alone
    return [parent]


def _watch(ancestors: list[int]) -> None:
    while os.getppid() == ancestors[0] and all(map(_alive, ancestors)):
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
