"""The shapes of OpenAI's API: checks requests and builds answers. A field that is not served is refused by name, unless
its value is neutral: nothing that a client asks for is silently ignored."""

from __future__ import annotations

import json
import math
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fst.models.sampler import Answer

MOST_ANSWERS = 8
LEAST_TOP_P = 1e-9  # only the likeliest token, which is what top_p 0 asks for
SERVED = frozenset((
    "model", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "seed", "stop", "stream",
    "stream_options",
))  # fmt: skip
UNREAD = frozenset(("user", "metadata", "safety_identifier", "prompt_cache_key"))  # do not affect the answer
NEUTRAL: dict[str, tuple[Any, ...]] = {  # fields that are not served -> their neutral values
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "logprobs": (False,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
ROLES = ("system", "developer", "user", "assistant")


class BadRequest(Exception):
    """A request that is refused: `status` is the HTTP status, `code` the error code for programs, `param` the field
    that is not served."""

    def __init__(
        self, message: str, status: int = 400, code: str = "invalid_request", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


@dataclass(frozen=True)
class Asked:
    """A checked request. `messages` have the roles system, user and assistant; a plain completion is one user
    message. `n` is the number of answers, `usage` whether a stream ends with the token counts."""

    model: str
    messages: tuple[dict[str, str], ...]
    temperature: float
    top_p: float
    max_tokens: int
    n: int
    seed: int
    stop: tuple[str, ...]
    stream: bool
    usage: bool
    chat: bool

    @property
    def question(self) -> str:
        """The user's last message; "" without one."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a body as a JSON object. Raises BadRequest if it is none."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        values = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"the body is not valid JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise BadRequest("the body is not a JSON object")
    return values


def parse_request(values: dict[str, Any], most_tokens: int, chat: bool) -> Asked:
    """Check a request; answers have at most `most_tokens` tokens. Raises BadRequest that names the field."""
    _served(values, SERVED | {"messages" if chat else "prompt"})
    messages = _messages(values.get("messages")) if chat else _completion(values.get("prompt"))
    asked = _integer(values, "max_completion_tokens", None, 1) or _integer(values, "max_tokens", most_tokens, 1)
    stop = values.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, (list, tuple)) or len(stop) > 4 or not all(isinstance(s, str) and s for s in stop):
        raise BadRequest("stop: expected a string, or up to 4 of them")
    seed = _integer(values, "seed", None, None)
    options = values.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest("stream_options: expected an object")
    only(options, frozenset(("include_usage",)), "stream_options.")
    return Asked(
        model=_text(values, "model", "fst"),
        messages=messages,
        temperature=_number(values, "temperature", 2.0),
        top_p=_number(values, "top_p", 1.0) or LEAST_TOP_P,
        max_tokens=min(asked or most_tokens, most_tokens),
        n=_integer(values, "n", 1, 1, MOST_ANSWERS) or 1,
        seed=random.getrandbits(62) if seed is None else seed % 2**62,
        stop=tuple(stop),
        stream=_boolean(values, "stream"),
        usage=_boolean(options, "include_usage"),
        chat=chat,
    )


def answer_id(chat: bool) -> str:
    return f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"


def whole(
    answer: str, asked: Asked, model: str, texts: Sequence[tuple[str, str]], usage: tuple[int, int]
) -> dict[str, Any]:
    """Build a whole answer; `texts` has (text, finish reason) pairs, `usage` the tokens read and written."""
    choices = [
        {"index": i, "finish_reason": finish, "logprobs": None}
        | ({"message": {"role": "assistant", "content": text, "refusal": None}} if asked.chat else {"text": text})
        for i, (text, finish) in enumerate(texts)
    ]
    kind = "chat.completion" if asked.chat else "text_completion"
    return {**_head(answer, kind, model), "choices": choices, "usage": used(usage)}


def chunk(answer: str, asked: Asked, model: str, index: int, text: str | None, finish: str | None) -> dict[str, Any]:
    """Build a piece of a streamed answer; with `text` None, its first piece, which has only the role."""
    delta = {"role": "assistant", "content": ""} if text is None else {"content": text} if text else {}
    body = {"delta": delta} if asked.chat else {"text": text or ""}
    kind = "chat.completion.chunk" if asked.chat else "text_completion"
    choice = {"index": index, "finish_reason": finish, "logprobs": None, **body}
    return {**_head(answer, kind, model), "choices": [choice]}


def last_chunk(answer: str, asked: Asked, model: str, usage: tuple[int, int]) -> dict[str, Any]:
    """Build the last piece of a streamed answer, which has the usage."""
    kind = "chat.completion.chunk" if asked.chat else "text_completion"
    return {**_head(answer, kind, model), "choices": [], "usage": used(usage)}


def used(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def error(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": param, "code": code}}


def finished(answer: Answer, asked: Asked, is_control: Callable[[int], bool]) -> tuple[str, str]:
    """Return (text, finish reason) of an answer, cut before the first stop text in it."""
    text, cut = answer.text, False
    for stop in asked.stop:
        before, found, _ = text.partition(stop)
        text, cut = (before, True) if found else (text, cut)
    ended = cut or len(answer.tokens) < asked.max_tokens or is_control(answer.tokens[-1])
    return text, "stop" if ended else "length"


def _head(answer: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": answer, "object": kind, "created": int(time.time()), "model": model}


def _messages(values: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(values, list) or not values:
        raise BadRequest("messages: expected a list with at least one message")
    found = []
    for number, message in enumerate(values):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadRequest(f"{where}.role: expected one of {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, list):  # parts; only texts are read here
            parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
            content = None if any(not isinstance(p, str) for p in parts) else "".join(parts)  # type: ignore[arg-type]
        if not isinstance(content, str):
            raise BadRequest(f"{where}.content: expected a string")
        only({k: v for k, v in message.items() if v}, frozenset(("role", "content")), f"{where}.")
        role = "system" if message["role"] == "developer" else message["role"]
        found.append({"role": role, "content": _encodable(content, where)})
    if not any(m["role"] == "user" for m in found):
        raise BadRequest("messages: expected at least one message with the role user")
    return tuple(found)


def _completion(prompt: Any) -> tuple[dict[str, str], ...]:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise BadRequest("prompt: expected a string")
    return ({"role": "user", "content": _encodable(prompt, "prompt")},)


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadRequest(f"{where}: half a surrogate pair; send the character itself") from exc
    return text


def _text(values: dict[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or len(value) > 200:
        raise BadRequest(f"{key}: expected a string of at most 200 characters")
    return value


def _boolean(values: dict[str, Any], key: str) -> bool:
    value = values.get(key)
    if not isinstance(value, (bool, type(None))):
        raise BadRequest(f"{key}: expected true or false")
    return bool(value)


def _integer(
    values: dict[str, Any], key: str, default: int | None, low: int | None, high: int | None = None
) -> int | None:
    value = values.get(key)
    if value is None:
        return default
    wrong = isinstance(value, bool) or not isinstance(value, int)
    if wrong or (low is not None and value < low) or (high is not None and value > high):
        bounds = "" if low is None else f" of at least {low}" if high is None else f" from {low} to {high}"
        raise BadRequest(f"{key}: expected a whole number{bounds}")
    return int(value)


def _number(values: dict[str, Any], key: str, most: float) -> float:
    value = values.get(key)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most or math.isnan(value):
        raise BadRequest(f"{key}: expected a number from 0 to {most:g}")
    return float(value)


def only(values: dict[str, Any], known: frozenset[str], where: str = "") -> None:
    """Raise BadRequest for an unknown field; a field that is null counts as not sent."""
    for key, value in values.items():
        if key not in known and value is not None:
            name = f"{where}{key}"[:100]
            raise BadRequest(f"{name}: is not supported; leave it out", 400, "unsupported_field", name)


def _served(values: dict[str, Any], known: frozenset[str]) -> None:
    asking = {k: v for k, v in values.items() if k not in UNREAD and not _asks_for_nothing(v, NEUTRAL.get(k, ()))}
    only(asking, known)


def _asks_for_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)
