"""Waits for an answer as long as its client stays connected and tokens keep coming."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fst.serving.openai import BadRequest

T = TypeVar("T")
Receive = Callable[[], Awaitable[Mapping[str, Any]]]  # ASGI's


class Patience:
    """Waits as long as the last token, or the start, is less than `seconds` ago by `clock`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self.heard()

    def heard(self, *_: object) -> None:
        """Note that a token has come."""
        self._last = self._clock()

    async def wait(self, answers: asyncio.Future[T]) -> T:
        """Return the result of `answers`. Raises TimeoutError if no token comes in time."""
        while True:
            left = self._last + self._seconds - self._clock()
            done, _ = await asyncio.wait([answers], timeout=max(0.0, left))
            if done:
                return answers.result()
            if left <= 0:
                raise TimeoutError


async def unless_gone(receive: Receive, answer: Coroutine[Any, Any, T]) -> T:
    """Return the answer to a request whose body has been read; `receive` is the request's ASGI channel. If the client
    disconnects first, the answer is cancelled and BadRequest (499) is raised, for the log only."""
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise BadRequest("the client disconnected", 499, "client_gone")
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
