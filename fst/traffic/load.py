"""Puts load on an HTTP server from many clients at once, cheaply enough to run on the serving machine: connections are
kept alive, requests are written in one piece, and answers are read by their length."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], Awaitable[int]]  # sends one request; returns its HTTP status


@dataclass
class Load:
    """The result of a load: the seconds of each answered request, in the order in which they ended, and the number of
    answers by HTTP status."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    elapsed: float = 0.0

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.seconds) / self.elapsed if self.elapsed else 0.0

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered."""
        return quantile(self.seconds, share)


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of the values at `share`, in [0, 1]; 0 if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def closed_loop(calls: Sequence[Call], seconds: float) -> Load:
    """Repeat every call for `seconds`, each as soon as it has been answered: one client per call."""
    load, started = Load(), time.perf_counter()

    async def client(call: Call) -> None:
        while (begun := time.perf_counter()) < started + seconds:
            status = await call()
            load.seconds.append(time.perf_counter() - begun)
            load.statuses[status] = load.statuses.get(status, 0) + 1

    await asyncio.gather(*map(client, calls))
    load.elapsed = time.perf_counter() - started
    return load


class Connection:
    """A keep-alive connection that sends JSON and reads the whole answer; it reconnects after it was closed."""

    def __init__(self, host: str, port: int, key: str = "") -> None:
        self._place = (host, port)
        self._head = f"Host: {host}:{port}\r\nContent-Type: application/json\r\n"
        self._head += f"Authorization: Bearer {key}\r\n" if key else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, values: Any) -> tuple[int, bytes]:
        """Post values as JSON; returns status and body. Raises OSError or EOFError if the server does not answer."""
        try:
            return await self._ask(self._request(path, values))
        except (OSError, EOFError, ValueError):
            await self.close()
            raise

    async def events(self, path: str, values: Any) -> AsyncIterator[Any]:
        """Post values as JSON and yield the data of each server-sent event as it comes, without the final [DONE].
        Raises OSError or EOFError if the server does not answer, and ValueError if the answer is not an event
        stream."""
        whole = False
        try:
            reader, head = await self._answered(self._request(path, values))
            if "text/event-stream" not in head or "transfer-encoding: chunked" not in head:
                raise ValueError(f"no stream of events: {head.partition(chr(13))[0]}")
            while size := int((await reader.readline()).strip(), 16):
                chunk = (await reader.readexactly(size + 2))[:-2]
                for line in chunk.split(b"\n\n"):
                    data = line.removeprefix(b"data: ")
                    if data and data != b"[DONE]":
                        yield json.loads(data)
            await reader.readline()
            whole = True
        finally:
            if not whole:
                await self.close()

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    def _request(self, path: str, values: Any) -> bytes:
        body = json.dumps(values).encode()
        return f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def _answered(self, request: bytes) -> tuple[asyncio.StreamReader, str]:
        """Send a request and read the head of the answer; returns the reader for the rest, and the head in lower
        case."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        writer.write(request)
        return reader, (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        reader, head = await self._answered(request)
        status = int(head.split(" ", 2)[1])
        length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        if "connection: close" in head:
            await self.close()
        return status, body


def free_port() -> int:
    """Find a port of the loopback interface that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
