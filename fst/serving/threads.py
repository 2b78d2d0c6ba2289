"""The interface of fst/serving/worker.py for an engine that already is a server (vLLM): threads wait for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fst.errors import EngineError
from fst.models.sampler import Answer, Ask
from fst.serving.worker import Factory, Heard

THREADS = 256  # concurrent answers; further ones wait


@dataclass
class Threads:
    """Serves with a thread per answer. Call all methods on one event loop; `factory` makes the engine at the start."""

    factory: Factory
    restarts: int = 0
    _engine: Any = None
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS))

    @property
    def pid(self) -> int | None:
        """Always None: the server has its own processes."""
        return None

    async def start(self) -> None:
        """Make the engine. Raises EngineError."""
        self._engine = await self._do(self.factory)

    async def generate(self, ask: Ask, heard: Heard | None = None) -> Answer:
        """Answer an ask; `heard` is called with every token as it comes. If the caller is cancelled, the request to the
        server ends with the next token. Raises EngineError."""
        loop, gone = asyncio.get_running_loop(), threading.Event()

        def on_token(_: int, token: int) -> None:
            if gone.is_set():
                raise EngineError("this answer is no longer wanted")
            if heard:
                loop.call_soon_threadsafe(heard, token)

        try:
            asked = loop.run_in_executor(self._pool, self._engine.serve, [ask], on_token)
            answers: list[Answer] = await asked
        finally:
            gone.set()
        return answers[0]

    async def load(self, folder: Path) -> str:
        """Load the adapter in a folder; returns the name to ask for it by. Raises ModelError, EngineError."""
        name: str = await self._do(self._engine.load, folder)
        return name

    async def unload(self, name: str) -> None:
        """Unload an adapter."""
        await self._do(self._engine.unload, name)

    def close(self) -> None:
        """End the threads, and the server if the engine started it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._engine:
            self._engine.close()

    async def _do(self, function: Any, *arguments: Any) -> Any:
        """Run a function in a thread outside the pool that waits for answers."""
        return await asyncio.to_thread(function, *arguments)
