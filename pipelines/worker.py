"""A child process for the heavy work of a flow. The flow's own process imports no torch and survives a child that is
killed, runs out of memory or hangs.

Functions travel by name, arguments and results by value, over a private pipe; they are small, because what a stage
makes is on the disk. The child ends when its flow is gone, for whatever reason.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as Late
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from fst import spans
from fst.errors import FstError
from fst.lifeline import end_with_parent

T = TypeVar("T")


class WorkerDied(FstError):
    """The child process was killed, ran out of memory, or was ended because it took too long. Worth a retry."""

    exit_code = 3


class Worker:
    """One child, started at the first call and again after a death. Functions of a module may keep state in it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[..., T], *arguments: Any, timeout_seconds: float | None) -> T:
        """Call a module's function in the child. What it raises is raised here; WorkerDied when the child dies or takes
        longer than `timeout_seconds`, where that is given."""
        future, name = self._started().submit(_traced, spans.current(), function, *arguments), function.__name__
        try:
            return future.result(timeout_seconds)
        except BrokenProcessPool as exc:
            self.close(at_once=True)
            raise WorkerDied(
                f"the process that ran {name} was killed from outside (out of memory?); the next attempt "
                "goes on from what is on the disk"
            ) from exc
        except Late as exc:
            self.close(at_once=True)
            raise WorkerDied(
                f"{name} took longer than {timeout_seconds:g} s and was ended; the next attempt goes on "
                "from what is on the disk"
            ) from exc

    def start(self, function: Callable[[], object]) -> None:
        """Start the child and have it call a function in the background, for what that imports."""
        self._started().submit(function)

    def close(self, at_once: bool = False) -> None:
        """End the child, when it has finished its work or at once."""
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


def _traced(parent: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function within its caller's span."""
    with spans.span(function.__name__, parent=parent):
        return function(*arguments)


def _follow_parent() -> None:
    """End with the flow's process; leave Ctrl-C to it."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
