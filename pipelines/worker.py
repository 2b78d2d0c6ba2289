"""A child process for the heavy work of a flow. The flow itself stays light: it imports no torch, and lives on when a
child is killed, runs out of memory or hangs.

Arguments and results are small and travel over a private pipe; what a stage made lies on the disk. The child ends
when its flow is gone, however that came about.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as Late
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from fst.errors import FstError


class WorkerDied(FstError):
    """The child process was killed, ran out of memory, or was ended because it took too long. Worth a retry."""

    exit_code = 3


class Worker:
    """One child, started at the first call and again after a death. Its functions may keep state in their module."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: str, *arguments: Any, timeout_seconds: float) -> dict[str, Any]:
        """The result of a function of pipelines/work.py; what it raises is raised here. Raises WorkerDied."""
        future = self._started().submit(_call, function, *arguments)
        try:
            return future.result(timeout_seconds)
        except BrokenProcessPool as exc:
            self.close(at_once=True)
            raise WorkerDied(
                f"the process that ran {function} was killed from outside (out of memory?); the next attempt "
                "goes on from what is on the disk"
            ) from exc
        except Late as exc:
            self.close(at_once=True)
            raise WorkerDied(
                f"{function} took longer than {timeout_seconds:g} s and was ended; the next attempt goes on "
                "from what is on the disk"
            ) from exc

    def start(self) -> None:
        """Start the child in the background, so that its imports are done when the first call comes."""
        self._started().submit(_call, "")

    def close(self, at_once: bool = False) -> None:
        """End the child when it is done with what it does, or at once."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for child in list((pool._processes or {}).values()) if at_once else ():
                child.kill()
            pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_follow_parent)
        return self._pool


def _call(function: str, *arguments: Any) -> Any:
    from pipelines import work  # torch and trl take seconds: never in the flow's own process

    return getattr(work, function)(*arguments) if function else None


def _follow_parent() -> None:
    """End with the flow's process; leave Ctrl-C to it."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
