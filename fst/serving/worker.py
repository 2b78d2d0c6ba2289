"""Runs the engine in a separate process: HTTP and the model do not share an interpreter, and an engine that dies is
restarted. Requests join the engine's batch between two steps, and leave it when they are answered or cancelled.

A request that was being answered when the engine died is tried once more, and then fails with EngineError.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from fst.errors import EngineError, FstError
from fst.lifeline import end_with_parent
from fst.models.engines.engine import Batch, Engine, LocalEngine
from fst.models.sampler import Answer, Ask

ATTEMPTS = 2
RESTARTS_IN_A_ROW = 3  # without an answer in between; then the engine stays down until the next request
Factory = Callable[[], Engine]  # makes the engine, in the child
Heard = Callable[[int], None]


@dataclass
class _Job:
    """A request to the child: `kind` is ping, ask, load or unload. (The message `leave`, which cancels an ask, has no
    answer and no job.)"""

    kind: str
    what: Any
    done: asyncio.Future[Any]
    heard: Heard | None = None
    attempts: int = 1
    told: int = 0  # tokens passed on, which another attempt skips
    skip: int = 0


@dataclass
class Worker:
    """The parent's side of the engine. Call all methods on one event loop. `factory` must be picklable."""

    factory: Factory
    restarts: int = 0
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _folders: dict[str, Path] = field(default_factory=dict)  # adapters, loaded again after a restart
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _process: Any = None
    _outbox: queue.SimpleQueue[Any] | None = None
    _closed: bool = False
    _barren: int = 0

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._process.pid if self._process and self._process.is_alive() else None

    async def start(self) -> None:
        """Start the child and wait until its model is loaded. Raises EngineError."""
        self._spawn()
        await self._do("ping", None)

    async def generate(self, ask: Ask, heard: Heard | None = None) -> Answer:
        """Answer an ask; `heard` is called with every token as it is drawn. If the caller is cancelled, the ask leaves
        the batch. Raises EngineError."""
        answer: Answer = await self._do("ask", ask, heard)
        return answer

    async def load(self, folder: Path) -> str:
        """Load the adapter in a folder; returns the name to ask for it by. Raises ModelError for one that does not fit
        the base model, EngineError."""
        name: str = await self._do("load", folder)
        self._folders[name] = folder
        return name

    async def unload(self, name: str) -> None:
        """Unload an adapter."""
        self._folders.pop(name, None)
        await self._do("unload", name)

    def close(self) -> None:
        """End the child; unfinished requests fail with EngineError."""
        self._closed = True
        if self._process:
            self._process.terminate()
            self._process.join(5)
            if self._process.is_alive():
                self._process.kill()
        self._fail("the gateway is shutting down")

    # -- the parent's side ------------------------------------------------------------------------------

    async def _do(self, kind: str, what: Any, heard: Heard | None = None) -> Any:
        if self._closed:
            raise EngineError("the gateway is shutting down; try again later")
        if self._process is None:
            self._barren = 0
            self._spawn()
        job = _Job(kind, what, asyncio.get_running_loop().create_future(), heard)
        number = next(self._numbers)
        self._jobs[number] = job
        self._send((number, kind, what, heard is not None))
        try:
            return await job.done
        finally:
            self._jobs.pop(number, None)
            if kind == "ask" and job.done.cancelled():
                self._send((number, "leave", None, False))

    def _send(self, message: Any) -> None:
        if self._outbox is not None:
            self._outbox.put(message)

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs, self.factory), daemon=True, name="fst-engine")
        try:
            process.start()
        except OSError as exc:
            raise EngineError(f"cannot start the engine's process: {exc}") from exc
        finally:
            theirs.close()
        self._process = process
        self._outbox = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        threading.Thread(target=_write, args=(ours, self._outbox), daemon=True).start()
        threading.Thread(target=self._read, args=(ours, self._process, loop), daemon=True).start()
        for folder in self._folders.values():
            self._send((-1, "load", folder, False))

    def _read(self, connection: Connection, process: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on the child's messages until it ends; runs in a thread."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                messages = connection.recv()
                loop.call_soon_threadsafe(self._hear, messages)
        process.join(5)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._died, process)

    def _hear(self, messages: list[tuple[int, str, Any]]) -> None:
        self._barren = 0
        for number, kind, what in messages:
            job = self._jobs.get(number)
            if job is None or job.done.done():
                continue  # cancelled or answered
            if kind == "token":
                if job.skip:
                    job.skip -= 1
                elif job.heard:
                    job.told += 1
                    job.heard(what)
            elif kind == "done":
                job.done.set_result(what)
            else:
                job.done.set_exception(what)

    def _died(self, process: Any) -> None:
        """Restart the child, load its adapters again, and repeat the unfinished requests."""
        if process is not self._process or self._closed:
            return
        self.restarts += 1
        self._barren += 1
        self._process = self._outbox = None
        if self._barren > RESTARTS_IN_A_ROW:
            self._fail("the engine keeps dying at its start; see the gateway's log for its error")
            return
        try:
            self._spawn()
        except EngineError as exc:
            self._fail(str(exc))
            return
        for number, job in list(self._jobs.items()):
            if job.attempts >= ATTEMPTS and job.kind == "ask":
                if not job.done.done():
                    job.done.set_exception(EngineError("the engine died twice while answering this request; try again"))
                continue
            job.attempts, job.skip = job.attempts + 1, job.told
            self._send((number, job.kind, job.what, job.heard is not None))

    def _fail(self, why: str) -> None:
        for job in self._jobs.values():
            if not job.done.done():
                job.done.set_exception(EngineError(why))


def _write(connection: Connection, outbox: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while True:
            connection.send(outbox.get())


# -- the child's side ---------------------------------------------------------------------------------------


def _child(connection: Connection, factory: Factory) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    engine = cast(LocalEngine, factory())
    batch = engine.batch()
    heard: set[int] = set()  # asks whose tokens are streamed
    with contextlib.suppress(EOFError, OSError):
        while True:
            said: list[tuple[int, str, Any]] = []
            while not (len(batch) or said) or connection.poll():
                number, kind, what, streamed = connection.recv()
                if kind == "ask":
                    batch.join(number, what)
                    heard |= {number} if streamed else set()
                elif kind == "leave":
                    batch.leave(number)
                    heard.discard(number)
                else:
                    said.append(_controlled(engine, number, kind, what))
            if len(batch):
                said += _stepped(batch, heard)
            if said:
                connection.send(said)


def _stepped(batch: Batch, heard: set[int]) -> list[tuple[int, str, Any]]:
    """Step the batch once; returns the messages for the parent."""
    said: list[tuple[int, str, Any]] = []
    for number, told in batch.step():
        if isinstance(told, int):
            if number in heard:
                said.append((number, "token", told))
        else:
            heard.discard(number)
            said.append((number, "done" if isinstance(told, Answer) else "failed", told))
    return said


def _controlled(engine: Engine, number: int, kind: str, what: Any) -> tuple[int, str, Any]:
    """Load or unload an adapter, or answer a ping; returns the message for the parent."""
    try:
        if kind == "load":
            return number, "done", engine.load(what)
        if kind == "unload":
            engine.unload(what)
        return number, "done", None
    except FstError as exc:
        return number, "failed", exc
    except Exception as exc:
        return number, "failed", EngineError(f"the engine failed: {type(exc).__name__}: {exc}")
