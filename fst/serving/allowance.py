"""Limits how many requests a tenant may send, counted in this process or in a Redis that all replicas share."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from fst.errors import ConfigError
from fst.extras import require

TIMEOUT_SECONDS = 1.0  # of the Redis
SCHEMES = ("redis://", "rediss://", "redis+unix://")
WARN_SECONDS = 60.0  # between two warnings that the Redis does not answer
_log = logging.getLogger("fst.gateway")


class Allowance(Protocol):
    """Counts the requests of tenants."""

    async def wait_seconds(self, tenant: str) -> float:
        """Return 0 and count a request if the tenant may send one now; otherwise the seconds until it may."""
        ...

    async def close(self) -> None:
        """Close the connection to where the count is kept, if any."""
        ...


class Own:
    """A token bucket per tenant in this process; an empty one is full again after a minute. A limit of 0 means none."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute, self._buckets = per_minute, dict[str, tuple[float, float]]()

    async def wait_seconds(self, tenant: str) -> float:
        if not self.per_minute:
            return 0.0
        now, rate = time.monotonic(), self.per_minute / 60
        left, at = self._buckets.get(tenant, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * rate)
        if left < 1:
            self._buckets[tenant] = (left, now)
            return (1 - left) / rate
        self._buckets[tenant] = (left - 1, now)
        return 0.0

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class Shared:
    """A moving window of a minute per tenant, in a Redis that all replicas share. While Redis cannot be reached, each
    replica counts for itself: a limit that is exceeded is better than no answers."""

    def __init__(self, per_minute: int, url: str) -> None:
        """Raise ConfigError if `url` is not a Redis URL, without repeating it, as it may contain a password."""
        require("limits")
        from limits import RateLimitItemPerMinute
        from limits.aio.storage import RedisStorage
        from limits.aio.strategies import MovingWindowRateLimiter
        from limits.errors import ConfigurationError
        from redis.asyncio import ConnectionPool

        limits: Any = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
        try:
            if not url.startswith(SCHEMES):
                raise ValueError("another scheme")
            self._pool = ConnectionPool.from_url(url.removeprefix("redis+"), **limits)
            options: Any = {"implementation": "redispy", "connection_pool": self._pool}
            store = RedisStorage(f"async+{url}", wrap_exceptions=True, **options)
        except (ValueError, ConfigurationError):  # whose message repeats the URL
            raise ConfigError("serve.limits_url: not a Redis URL; write redis://HOST:PORT/DATABASE") from None
        self._limiter, self._limit = MovingWindowRateLimiter(store), RateLimitItemPerMinute(per_minute, 1, "fst")
        self._own, self._warned = Own(per_minute), -WARN_SECONDS

    async def wait_seconds(self, tenant: str) -> float:
        from limits.errors import StorageError

        try:
            if await self._limiter.hit(self._limit, tenant):
                return 0.0
            free_at = (await self._limiter.get_window_stats(self._limit, tenant)).reset_time
            return max(0.1, free_at - time.time())
        except StorageError as exc:
            if time.monotonic() - self._warned >= WARN_SECONDS:
                self._warned = time.monotonic()
                said = type(exc.storage_error).__name__  # its message may contain the URL with its password
                _log.warning("the Redis at serve.limits_url does not answer (%s): this replica counts for itself", said)
            return await self._own.wait_seconds(tenant)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.disconnect()


def allowance(per_minute: int, url: str) -> Allowance:
    """Make the limiter; with an empty `url` it counts in this process. Raises ConfigError for a URL that is not a Redis
    URL, and MissingDependency if the extra `limits` is not installed."""
    return Shared(per_minute, url) if per_minute and url else Own(per_minute)
