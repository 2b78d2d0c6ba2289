"""A reflection model behind an OpenAI-compatible chat endpoint.

Retried are status 408, 429 (waiting as long as Retry-After asks, up to a limit) and 5xx, time-outs, broken connections
and replies without text. Everything else fails at once, with a remedy. httpx's errors become ReflectorError here. The
API key is read from the environment at every call and never stored; where a server echoes it, it is blanked.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from fst.errors import ConfigError, ReflectorError

LONGEST_WAIT_SECONDS = 60.0
LARGEST_REPLY_BYTES = 4 * 1024 * 1024
CHARACTERS_PER_TOKEN = 4  # a rule of thumb for English, used only where a reply states no usage

REMEDIES = {
    403: "The key in {env} may not use model {model!r}",
    404: "Check base_url ({url}) and the model name {model!r}",
    413: "The reflection prompt is too long for this endpoint: lower the number of feedback examples",
}


@dataclass(frozen=True)
class EndpointConfig:
    """Address of the reflection model, and how patiently it is asked.

    `api_key_env` names an environment variable; when it is unset no key is sent, which suits local servers.
    `timeout_seconds` bounds one whole attempt, `max_retries` counts attempts after the first. Raises ConfigError for
    values out of range.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_seconds: float = 60
    max_retries: int = 5
    backoff_seconds: float = 1.0
    temperature: float = 1.0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        ranges: dict[str, tuple[float, bool]] = {  # lowest value, and whether it is itself allowed
            "timeout_seconds": (0, False),
            "max_retries": (0, True),
            "backoff_seconds": (0, True),
            "temperature": (0, True),
            "max_tokens": (1, True),
        }
        for name, (low, allowed) in ranges.items():
            value = getattr(self, name)
            if not math.isfinite(value) or value < low or (value == low and not allowed):
                raise ConfigError(f"endpoint.{name}: {value} must be {'at least' if allowed else 'above'} {low}")
        if not self.model:
            raise ConfigError("endpoint.model: name the model that the endpoint serves")
        if not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env, re.ASCII):
            # The message does not repeat the value: the usual mistake is to put the key itself here.
            raise ConfigError("endpoint.api_key_env: must be the NAME of an environment variable, not the key")


@dataclass
class Usage:
    """Requests and tokens. `calls` counts texts asked for, `retries` further requests, `estimated` replies that stated
    no usage, whose tokens are estimated from their length."""

    calls: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class _Setback:
    """An attempt that failed and may succeed when repeated: the reason, and the wait in seconds that the server asked
    for."""

    reason: str
    wait: float = 0.0


class EndpointReflector:
    """A callable `text -> text` for reflection, safe to call from several threads.

    `sleep` and `jitter` (uniform in [0, 1)) are arguments so that tests need not wait.
    """

    def __init__(
        self,
        config: EndpointConfig,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.usage = Usage()
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"EndpointReflector({self.config.model!r} at {self.config.base_url})"

    def __call__(self, text: str) -> str:
        """Ask the model once; returns its text, which may be empty. Raises ReflectorError after the retries, or at once
        where a retry cannot help."""
        with self._lock:
            self.usage.calls += 1
        reason = ""
        with httpx.Client(timeout=self.config.timeout_seconds) as client:
            for attempt in range(self.config.max_retries + 1):
                outcome = self._attempt(client, text)
                if isinstance(outcome, str):
                    return outcome
                reason = outcome.reason
                if attempt < self.config.max_retries:
                    with self._lock:
                        self.usage.retries += 1
                    self._sleep(self._wait(attempt, outcome.wait))
        raise ReflectorError(
            f"{self!r} failed {self.config.max_retries + 1} times, the last time with: {reason}. "
            "Check that the endpoint is up, or raise max_retries, backoff_seconds or timeout_seconds"
        )

    def _wait(self, attempt: int, asked: float) -> float:
        """Seconds: exponential back-off, half of it random; at least what the server asked for, at most
        LONGEST_WAIT_SECONDS."""
        backoff = self.config.backoff_seconds * 2**attempt * (0.5 + 0.5 * self._jitter())
        return min(LONGEST_WAIT_SECONDS, max(asked, backoff))

    def _attempt(self, client: httpx.Client, text: str) -> str | _Setback:
        key = self._key()
        try:
            status, headers, body = self._post(client, text, key)
        except httpx.UnsupportedProtocol as exc:
            raise ReflectorError(f"{self!r}: {exc}") from exc
        except httpx.TimeoutException:
            return _Setback(f"no complete reply within {self.config.timeout_seconds} s")
        except httpx.RequestError as exc:
            return _Setback(f"{type(exc).__name__}: {_blank(str(exc), key)}")
        if status == 200:
            return self._read(text, body)
        said = _blank(body[:2000].decode(errors="replace"), key)[:300].strip() or "no message"
        if status in (408, 429) or status >= 500:
            return _Setback(f"HTTP {status}: {said}", _retry_after(headers.get("retry-after", "")))
        raise ReflectorError(f"{self!r} answered HTTP {status}: {said}. {self._remedy(status, key)}")

    def _post(self, client: httpx.Client, text: str, key: str) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body of one request. httpx bounds each read only; a reply that drips is cut off here."""
        deadline = time.monotonic() + self.config.timeout_seconds
        request = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        url = self.config.base_url.rstrip("/") + "/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with client.stream("POST", url, json=request, headers=headers) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the reply took too long")
                if len(body) > LARGEST_REPLY_BYTES:
                    raise httpx.ReadError(f"the reply is larger than {LARGEST_REPLY_BYTES} bytes")
            return response.status_code, response.headers, bytes(body)

    def _read(self, text: str, body: bytes) -> str | _Setback:
        """The text of a reply with status 200. Its tokens count even when it has no text, since they are billed."""
        try:
            reply = json.loads(body)
        except (ValueError, RecursionError):
            self._count(text, "", None)
            return _Setback("the reply is not JSON")
        content, reason = _content(reply)
        self._count(text, content or "", reply.get("usage") if isinstance(reply, dict) else None)
        return _Setback(reason) if content is None else content

    def _count(self, asked: str, answered: str, stated: Any) -> None:
        stated = stated if isinstance(stated, dict) else {}
        tokens_in, tokens_out = stated.get("prompt_tokens"), stated.get("completion_tokens")
        known = all(type(n) is int and n >= 0 for n in (tokens_in, tokens_out))
        if not known:
            tokens_in, tokens_out = (math.ceil(len(t) / CHARACTERS_PER_TOKEN) for t in (asked, answered))
        with self._lock:
            self.usage.estimated += not known
            self.usage.input_tokens += tokens_in
            self.usage.output_tokens += tokens_out

    def _key(self) -> str:
        key = os.environ.get(self.config.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            # httpx would print the header, and so the key, in its own error.
            raise ReflectorError(f"{self.config.api_key_env} holds characters that no API key has: set it again")
        return key

    def _remedy(self, status: int, key: str) -> str:
        env = self.config.api_key_env
        if status == 401:
            return f"Set the environment variable {env} to a valid key (it is {'set' if key else 'not set'} now)"
        if 300 <= status < 400:
            return "The endpoint redirects: put its final address in base_url"
        remedy = REMEDIES.get(status, "The request was refused: check model, temperature and max_tokens")
        return remedy.format(env=env, model=self.config.model, url=self.config.base_url)


def _check_url(text: str) -> None:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        # from None: httpx quotes the part that it cannot read, which may be a password.
        raise ConfigError("endpoint.base_url: not a URL; give one such as http://localhost:8000/v1") from None
    if url.userinfo or url.query or url.fragment:
        # Errors and records print the URL, and people put secrets in these parts.
        raise ConfigError("endpoint.base_url: must hold no user, password, query or fragment; use api_key_env")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"endpoint.base_url: {text!r} must look like http://localhost:8000/v1")


def _content(reply: Any) -> tuple[str | None, str]:
    """The answer's text and "", or None and what is wrong with the reply."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None, "the reply has no choices"
    message = choices[0].get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        return None, f"the reply has no text (finish_reason {choices[0].get('finish_reason')!r})"
    return content, ""


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header in either form (seconds, or an HTTP date); 0 where it cannot be read."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _blank(text: str, key: str) -> str:
    """Blank the key in what a server said."""
    return text.replace(key, "[key]") if key else text
