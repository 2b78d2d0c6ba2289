"""Seconds and memory of named parts of a process's work."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import psutil
import torch

_EVERY_SECONDS = 0.01


class Meter:
    """Adds up the seconds of each part, and keeps the most memory seen in it: bytes above `before`, see
    `memory_in_use`. A part within another is not part of that."""

    def __init__(self, before: int) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)
        self._parts: list[str] = []
        self._began = 0.0
        self._before = before

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs in this block belongs to `name`."""
        self._turn()
        self._parts.append(name)
        stop = threading.Event()
        watch = threading.Thread(target=self._watch, args=(stop,), daemon=True) if len(self._parts) == 1 else None
        if watch:
            watch.start()
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()
            if watch:
                stop.set()
                watch.join()

    def _turn(self) -> None:
        """Account for what ran since the last turn."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._began
            self._look()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._began = now

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        if self._parts:
            name = self._parts[-1]
            self.bytes[name] = max(self.bytes[name], memory_in_use() - self._before)


def memory_in_use() -> int:
    """Bytes: the most that was allocated on the GPU since its peak was reset, where there is one, else resident in this
    process now."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
