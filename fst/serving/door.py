"""Checks the Host and Origin headers of every request before it is answered.

Any page that is open in a browser can send requests to ports of the same machine. The browser then names the page's
site in the header `Origin`, or in `Host` if the site's name was made to resolve to 127.0.0.1 (DNS rebinding). So
without keys the gateway answers only to the names of the loopback interface, and requests of other origins are refused.

Starlette's TrustedHostMiddleware does not fit: it answers in plain text and before keys are checked, which would hide
a 401.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fst.serving.keys import Keys
from fst.serving.replies import failure


class Door:
    """ASGI middleware that refuses requests with status 403. `hosts` are the names that the gateway answers to besides
    those of the loopback interface; with keys and without `hosts` it answers to every name. If keys are required, a
    request without a known one passes here, and then gets a 401 or a page that is open to all."""

    def __init__(self, app: ASGIApp, keys: Keys, hosts: Iterable[str]) -> None:
        self._app, self._keys = app, keys
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if self._keys.caller(headers.get("authorization", "")) and (refused := self._refused(headers)):
                await failure(*refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, headers: Headers) -> tuple[str, int, str] | None:
        """Return (message, status, code) if the request is refused, otherwise None."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if (self._keys.open or self._hosts) and not self._answers_to(host):
            says = "the gateway does not answer to the name in the header Host; see `serve.allowed_hosts`"
            return says, 403, "forbidden_host"
        if origin is not None and _authority(origin) != host.lower():
            return "pages of other sites (header Origin) may not use the gateway", 403, "forbidden_origin"
        return None

    def _answers_to(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self._hosts


def is_loopback(host: str) -> bool:
    """Whether a host name or address is that of the loopback interface."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authority(origin: str) -> str | None:
    """The host and port of an origin; None if it is opaque (`null`) or malformed."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
