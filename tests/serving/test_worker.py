"""The engine's process. W1 a request joins while another is answered, and each has a token a step; W2 a request whose
caller is cancelled leaves the batch; W3 an error of one request is its own, and kinds of errors survive the way; W4 an
engine that dies answers its requests again, and tells no token twice; W5 an engine in threads stops for a cancelled
caller too; W6 nobody waits for an engine whose process cannot be started. P1 an answer is waited for while tokens come,
and no longer; P2 what is waited for with a client that hangs up is cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from fst.errors import EngineError, ModelError
from fst.models.sampler import Ask
from fst.serving.openai import BadRequest
from fst.serving.patience import Patience, unless_gone
from fst.serving.threads import Threads
from fst.serving.worker import Worker
from support.gateway_toys import endless_engine

FOREVER = Ask((3, 9, 5), None, 200_000, 0.0, 0)
SHORT = Ask((3, 9, 5, 7), None, 6, 0.0, 0)
LIMIT = 120  # seconds, far more than anything here takes


@asynccontextmanager
async def started(folder: Path, rows: int = 8) -> AsyncIterator[Worker]:
    worker = Worker(partial(endless_engine, str(folder), rows))
    try:
        async with asyncio.timeout(LIMIT):
            await worker.start()
            yield worker
    finally:
        worker.close()


@pytest.mark.slow
def test_w1_a_request_joins_while_another_is_answered(tiny_model_dir: Path) -> None:
    async def main() -> list[str]:
        said: list[str] = []
        begun = asyncio.Event()

        def heard(_: int) -> None:
            said.append("long")
            begun.set()

        async with started(tiny_model_dir, rows=10**6) as worker:
            long = asyncio.ensure_future(worker.generate(FOREVER, heard))
            await begun.wait()
            answer = await worker.generate(SHORT, lambda _: said.append("short"))
            assert len(answer.tokens) == 6
            assert not long.done()
            long.cancel()
        return said

    said = asyncio.run(main())
    between = said[said.index("short") : len(said) - said[::-1].index("short")]
    assert between == ["short", *["long", "short"] * 5]


@pytest.mark.slow
def test_w2_a_request_whose_caller_is_cancelled_leaves_the_batch(tiny_model_dir: Path) -> None:
    """There is room for one row, and the first would take it for hours."""

    async def main() -> None:
        begun = asyncio.Event()
        async with started(tiny_model_dir, rows=0) as worker:
            first = asyncio.ensure_future(worker.generate(FOREVER, lambda _: begun.set()))
            await begun.wait()
            waiting = [asyncio.ensure_future(worker.generate(ask)) for ask in (FOREVER, SHORT)]
            await worker._do("ping", None)
            assert not any(one.done() for one in waiting)
            for one in (first, waiting[0]):
                one.cancel()
            assert len((await waiting[1]).tokens) == 6
            assert not worker._jobs

    asyncio.run(main())


@pytest.mark.slow
def test_w3_errors_are_their_requests_own(tiny_model_dir: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tiny_model_dir) as worker:
            bad = Ask((3, 10**6, 5), None, 4, 0.0, 0)
            gone = Ask((3, 9, 5), "fst-gone", 4, 0.0, 0)
            asks = [worker.generate(ask) for ask in (SHORT, bad, gone)]
            answers = await asyncio.gather(*asks, worker.load(tmp_path), return_exceptions=True)
            assert answers[0] == await worker.generate(SHORT)
            assert [type(answer) for answer in answers[1:]] == [EngineError, EngineError, ModelError]
            assert "adapter fst-gone is not loaded" in str(answers[2])
            assert worker.restarts == 0

    asyncio.run(main())


@pytest.mark.slow
def test_w4_an_engine_that_dies_tells_no_token_twice(tiny_model_dir: Path) -> None:
    async def main() -> None:
        tokens: list[int] = []
        begun = asyncio.Event()

        def heard(token: int) -> None:
            tokens.append(token)
            begun.set()

        ask = Ask((3, 9, 5), None, 200, 1.0, 5)
        async with started(tiny_model_dir, rows=10**6) as worker:
            answering = asyncio.ensure_future(worker.generate(ask, heard))
            await begun.wait()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            answer = await answering
            assert tuple(tokens) == answer.tokens
            assert worker.restarts == 1

    asyncio.run(main())


def test_w5_an_engine_in_threads_stops_for_a_cancelled_caller_too(tiny_model_dir: Path) -> None:
    async def main() -> None:
        begun = asyncio.Event()
        threads = Threads(partial(endless_engine, str(tiny_model_dir), 1))
        await threads.start()
        forever = asyncio.ensure_future(threads.generate(FOREVER, lambda _: begun.set()))
        await begun.wait()
        forever.cancel()
        await asyncio.wait_for(asyncio.to_thread(threads._pool.shutdown, wait=True), LIMIT)
        assert forever.cancelled()

    asyncio.run(main())


@pytest.mark.slow
def test_w6_an_engine_that_cannot_be_started_again_fails_what_waits(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(_: object) -> None:
        raise FileNotFoundError("no such folder any more")

    async def main() -> None:
        begun = asyncio.Event()
        async with started(tiny_model_dir) as worker:
            waiting = asyncio.ensure_future(worker.generate(FOREVER, lambda _: begun.set()))
            await begun.wait()
            with monkeypatch.context() as patch:
                patch.setattr(SpawnProcess, "start", no_process)
                assert worker.pid
                os.kill(worker.pid, signal.SIGKILL)
                for _ in range(2):  # the one in hand, and one that comes then
                    with pytest.raises(
                        EngineError, match=r"cannot start the engine's process: no such folder any more"
                    ):
                        await waiting
                    waiting = asyncio.ensure_future(worker.generate(SHORT))
            assert worker.pid is None
            assert len((await worker.generate(SHORT)).tokens) == 6, "once it can, it is"

    asyncio.run(main())


def test_p1_an_answer_is_waited_for_while_tokens_come() -> None:
    async def main() -> None:
        now = [0.0]
        patience = Patience(1e-3, lambda: now[0])
        answers: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(patience.wait(answers))
        for _ in range(5):
            now[0] += 9e-4
            await asyncio.sleep(2e-3)
            assert not waiting.done()
            patience.heard(7)
        now[0] += 2e-3
        with pytest.raises(TimeoutError):
            await waiting
        assert not answers.done()
        answers.set_result("said")
        assert await patience.wait(answers) == "said", "what is there is not late"

    asyncio.run(main())


def test_p2_what_a_client_that_hangs_up_asked_for_is_cancelled() -> None:
    async def main() -> None:
        cancelled, begun = asyncio.Event(), asyncio.Event()

        said_by_client: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def never() -> str:
            begun.set()
            try:
                return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]
            finally:
                cancelled.set()

        async def said() -> str:
            return "said"

        async def failed() -> str:
            raise EngineError("gone")

        assert await unless_gone(said_by_client.get, said()) == "said"
        with pytest.raises(EngineError, match="gone"):
            await unless_gone(said_by_client.get, failed())
        waiting = asyncio.ensure_future(unless_gone(said_by_client.get, never()))
        await begun.wait()
        for message in ("http.request", "http.disconnect"):
            said_by_client.put_nowait({"type": message})
        with pytest.raises(BadRequest, match="disconnected") as refused:
            await waiting
        assert refused.value.status == 499
        await asyncio.wait_for(cancelled.wait(), LIMIT)

    asyncio.run(main())
