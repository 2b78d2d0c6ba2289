"""HTTP responses of the gateway: JSON with safe headers, errors in the form of OpenAI's API, server-sent events."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import Response

from fst.serving import openai
from fst.serving.openai import BadRequest

SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class Busy(BadRequest):
    """A temporary refusal; `seconds` becomes the header Retry-After."""

    def __init__(self, message: str, status: int, seconds: float) -> None:
        super().__init__(message, status, "busy")
        self.seconds = seconds


def reply(values: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make a JSON response."""
    return Response(_encoded(values), status, {**SAFE, **(headers or {})}, "application/json")


def failure(
    message: str, status: int, code: str, wait_seconds: float | None = None, param: str | None = None
) -> Response:
    """Make an error response, with Retry-After if `wait_seconds` is given; `param` is the field that it is about."""
    headers = {"Retry-After": str(max(1, math.ceil(wait_seconds)))} if wait_seconds else {}
    return reply(openai.error(message, code, param), status, headers)


def event(values: Any) -> bytes:
    """Encode a server-sent event."""
    return b"data: " + _encoded(values) + b"\n\n"


def _encoded(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
