"""Streams of a gateway, token by token: the time to the first one, and from each to the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fst.traffic.load import Connection, quantile


@dataclass
class Streams:
    """Seconds from a request to the first text of its answer (`first`), and from one piece of text to the next
    (`next`), of all streams."""

    first: list[float] = field(default_factory=list)
    next: list[float] = field(default_factory=list)

    @property
    def says(self) -> str:
        """Median and 95th percentile of both, in milliseconds."""
        parts = (("time to the first token", self.first), ("from token to token", self.next))
        return ", ".join(
            f"{name} p50 {1000 * quantile(seconds, 0.5):.1f} ms, p95 {1000 * quantile(seconds, 0.95):.1f} ms"
            for name, seconds in parts
        )


async def streamed(port: int, path: str, bodies: Sequence[dict[str, Any]], clients: int, seconds: float) -> Streams:
    """Have clients ask for streams, each for the next as soon as one has ended. An answer of one piece of text has a
    first one alone. Raises OSError, EOFError or ValueError for an answer that is no stream."""
    found, turns = Streams(), iter(range(10**9))
    until = time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection("127.0.0.1", port)
        while (before := time.perf_counter()) < until:
            times = found.first
            body = {**bodies[next(turns) % len(bodies)], "stream": True}
            async for event in connection.events(path, body):
                if any(texts(event)):
                    now = time.perf_counter()
                    times.append(now - before)
                    before, times = now, found.next
        await connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def texts(event: dict[str, Any]) -> Iterator[str]:
    """The texts in a piece of a chat's stream. Raises ValueError for an error in its place."""
    if "error" in event:
        raise ValueError(event["error"]["message"])
    for choice in event["choices"]:
        yield choice["delta"].get("content") or ""
