"""A reflection model behind an OpenAI-compatible chat endpoint. The only file that imports openai.

The package's client retries transient failures: status 408, 409, 429 (after the time that Retry-After asks for, up to
two minutes) and 5xx, time-outs and broken connections. Any other failure raises ReflectorError at once, which names the
key of params.yaml to change. The API key is read from the environment at every call and never stored; if a server
echoes it, it is removed from the error.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

import openai

from fst.config import ReflectorParams
from fst.errors import ReflectorError

CHARACTERS_PER_TOKEN = 4  # a rule of thumb for English, used only where a reply states no usage
MAX_NEW_TOKENS = 4096  # of a reply, thinking included
OPTIONAL = ("max_completion_tokens", "temperature")  # options that a server may not support
PROBE = "Reply with the single word: ready"

REMEDIES = {
    401: "Set the environment variable {key} (reflector.api_key_env) to a valid key; it is {state} now",
    403: "The key in {key} (reflector.api_key_env) may not use reflector.endpoint_model {model!r}",
    404: "Check reflector.base_url ({url}) and reflector.endpoint_model ({model!r})",
    413: "The request is too long: lower fast.minibatch",
    429: "Wait for the limit to pass, or raise reflector.max_retries",
}
REFUSED = (
    "Check reflector.endpoint_model, reflector.temperature and reflector.max_new_tokens; lower fast.minibatch where "
    "the request is too long"
)
UNREACHABLE = "Check that the endpoint at reflector.base_url is up; reflector.max_retries is the number of retries"


@dataclass
class Usage:
    """The usage so far: `calls` counts the texts asked for, `retries` repeated requests, `cut` replies that ended at
    the output limit, `estimated` replies that stated no usage, whose tokens are estimated from their length. `cost` is
    computed from reflector.input_price and reflector.output_price, in their currency."""

    calls: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    cut: int = 0
    estimated: int = 0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class EndpointReflector:
    """A callable `text -> text` that asks the endpoint of `reflector.*`; `usage` accounts for its calls."""

    def __init__(self, params: ReflectorParams) -> None:
        self.params = params
        self.usage = Usage()
        self.limit = params.max_new_tokens or MAX_NEW_TOKENS
        self._refused: list[str] = []

    def __repr__(self) -> str:
        return f"the reflector {self.params.endpoint_model!r} at {self.params.base_url}"

    def __call__(self, text: str) -> str:
        """Ask the model once; returns its text, which may be empty. Raises ReflectorError."""
        return self._ask(text, self.params.max_retries)

    def check(self) -> None:
        """Ask for one word, with at most one retry. Raises ReflectorError, which says what to change."""
        self._ask(PROBE, min(1, self.params.max_retries))

    def _ask(self, text: str, max_retries: int) -> str:
        self.usage.calls += 1
        key, params = self._key(), self.params
        try:
            with openai.OpenAI(
                api_key=key or "none",
                base_url=params.base_url,
                timeout=params.timeout_seconds,
                max_retries=max_retries,
            ) as client:
                reply = self._send(client, text, {} if key else {"Authorization": openai.Omit()})
        except openai.APIError as exc:
            self.usage.retries += int(exc.request.headers.get("x-stainless-retry-count", 0))
            raise ReflectorError(self._explained(exc, key)) from None  # the server may have echoed the key
        self.usage.retries += reply.retries_taken
        return self._read(text, reply)

    def _send(self, client: openai.OpenAI, text: str, headers: dict[str, Any]) -> Any:
        """Send one request and return the reply. If the server rejects an option by name, the request is sent again
        without it, and so are later ones; the output limit is then sent under its older name, max_tokens."""
        refused = list(self._refused)
        said: list[str] = []
        while True:
            limit = "max_tokens" if "max_completion_tokens" in refused else "max_completion_tokens"
            options: dict[str, Any] = {limit: self.limit}
            if "temperature" not in refused:
                options["temperature"] = self.params.temperature
            try:
                reply = client.chat.completions.with_raw_response.create(
                    model=self.params.endpoint_model,
                    messages=[{"role": "user", "content": text}],
                    extra_headers=headers,
                    **options,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
                named = [name for name in OPTIONAL if name in exc.message and name not in refused]
                if not named:
                    exc.message = "; before that: ".join([exc.message, *said])
                    raise
                refused.append(named[0])
                said.append(exc.message)
            else:
                self._refused = refused
                return reply

    def _read(self, text: str, reply: Any) -> str:
        """The text of a successful reply. Its tokens are counted even if it has no text, since they are billed. Raises
        ReflectorError if there is no text."""
        try:
            completion = reply.parse()
            choice = completion.choices[0]
            answer = choice.message.content
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            raise ReflectorError(
                f"{self!r} did not send a chat completion. Check reflector.base_url; it often ends in /v1"
            ) from None
        cut = choice.finish_reason == "length"
        self.usage.cut += cut
        self._count(text, answer if isinstance(answer, str) else "", getattr(completion, "usage", None))
        if isinstance(answer, str) and (answer.strip() or not cut):
            return answer
        why = f"it was cut off at {self.limit} tokens, thinking included: raise reflector.max_new_tokens"
        raise ReflectorError(f"{self!r} sent no text; {why if cut else f'it ended with {choice.finish_reason!r}'}")

    def _count(self, asked: str, answered: str, stated: Any) -> None:
        read, written = (getattr(stated, name, None) for name in ("prompt_tokens", "completion_tokens"))
        if not (type(read) is int and type(written) is int and min(read, written) >= 0):
            self.usage.estimated += 1
            read, written = (math.ceil(len(part) / CHARACTERS_PER_TOKEN) for part in (asked, answered))
        self.usage.input_tokens += read
        self.usage.output_tokens += written
        self.usage.cost += (read * self.params.input_price + written * self.params.output_price) / 1e6

    def _key(self) -> str:
        name = self.params.api_key_env
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            # The client would print the header, and so the key, in its own error.
            raise ReflectorError(
                f"{name} (reflector.api_key_env) has characters that are invalid in a key: set it again"
            )
        return key

    def _explained(self, exc: openai.APIError, key: str) -> str:
        """Explain what went wrong and how to fix it, without the key."""
        said, remedy = exc.message, UNREACHABLE
        if isinstance(exc, openai.APIStatusError):
            status = exc.status_code
            said = f"HTTP {status}: {said.removeprefix(f'Error code: {status} - ')}"
            if status < 500:
                remedy = REMEDIES.get(status, REFUSED)
        elif isinstance(exc, openai.APITimeoutError):
            said = f"no reply within {self.params.timeout_seconds} s (reflector.timeout_seconds)"
        elif exc.__cause__:
            said = f"{said} {type(exc.__cause__).__name__}: {exc.__cause__}"
        said = (said.replace(key, "[key]") if key else said)[:500]
        facts = {"key": self.params.api_key_env, "state": "set" if key else "not set"}
        place = {"url": self.params.base_url, "model": self.params.endpoint_model}
        return f"{self!r} failed: {said}. {remedy.format(**facts, **place)}"
