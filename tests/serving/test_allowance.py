"""Limits of tenants. L1 a process counts for itself; L2 replicas count together in a Redis; L3 one that cannot reach it
counts for itself, and says so without the URL; L4 a URL that is none, or a variable that is not set, is named at the
start, without the URL."""

from __future__ import annotations

import asyncio
import logging

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

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


def test_l2_replicas_count_together() -> None:
    """The Redis is fakeredis, which runs the scripts of `limits`; each replica has a client of its own."""
    assert isinstance(allowance(3, "redis://127.0.0.1:1/0"), Shared)
    assert isinstance(allowance(0, "redis://127.0.0.1:1/0"), Own), "no limit, nothing to count"
    server = FakeServer()

    async def waits() -> list[float]:
        pools = [FakeAsyncRedis(server=server).connection_pool for _ in range(2)]
        replicas = [Shared(3, "redis://127.0.0.1:1/0", connection_pool=pool) for pool in pools]
        turns = [(0, "a"), (1, "a"), (0, "a"), (1, "a"), (0, "a"), (1, "b")]
        return [await replicas[which].wait_seconds(tenant) for which, tenant in turns]

    found = asyncio.run(waits())
    assert [wait > 0 for wait in found] == [False, False, False, True, True, False]
    assert 0 < found[3] <= 60


def test_l3_without_the_redis_each_counts_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def waits() -> list[float]:
        gone = Shared(2, "redis://:hidden@127.0.0.1:1/0", socket_connect_timeout=0.2)
        return [await gone.wait_seconds("a") for _ in range(3)]

    with caplog.at_level(logging.WARNING, "fst.gateway"):
        found = asyncio.run(waits())
    assert [wait > 0 for wait in found] == [False, False, True]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "fst.gateway"]
    assert "this replica counts for itself" in line
    assert "hidden" not in line


def test_l4_what_is_no_url_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("http://hidden:1", "hidden", "redis://hidden:port/0"):
        with pytest.raises(ConfigError, match=r"serve\.limits_url: no URL of a Redis") as said:
            allowance(3, url)
        assert "hidden" not in str(said.value)
    monkeypatch.delenv("FST_TEST_REDIS", raising=False)
    with pytest.raises(ConfigError, match=r"serve\.limits_url: the environment has no FST_TEST_REDIS"):
        from_environment("serve.limits_url", "env:FST_TEST_REDIS")
    monkeypatch.setenv("FST_TEST_REDIS", "redis://x")
    assert from_environment("serve.limits_url", "env:FST_TEST_REDIS") == "redis://x"
