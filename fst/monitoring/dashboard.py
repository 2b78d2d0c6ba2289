"""The dashboard, served by the gateway: the files of fst/monitoring/page and the data that they draw."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from fst.config import Params
from fst.errors import FstError
from fst.monitoring.dashboard_data import DashboardData
from fst.stages.places import Places

FILES = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
PAGE = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (  # Evidently's pages have inline scripts; the sandbox keeps them from this origin
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
    "font-src data:; sandbox allow-scripts"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.html")

State = Callable[[], dict[str, Any]]
Allowed = Callable[[Request], bool]


def dashboard_routes(params: Params, places: Places, state: State, allowed: Allowed) -> list[BaseRoute]:
    """Make the dashboard's routes. `state` returns the gateway's state; `allowed` decides whether a request may read
    the data."""
    data = DashboardData(params, places)

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def route(request: Request) -> Response:
            if not allowed(request):
                return _json({"error": "a key is needed"}, 401)
            try:
                return await answer(request)
            except FstError as exc:
                return _json({"error": str(exc)}, 404)

        return route

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in FILES:
            return Response("not found", 404, HEADERS, "text/plain")
        headers = {**HEADERS, "Content-Security-Policy": POLICY}
        return FileResponse(PAGE / name, media_type=FILES[name], headers=headers)

    async def everything(request: Request) -> Response:
        return _json({**await asyncio.to_thread(data.read), "gateway": state()})

    async def diff(request: Request) -> Response:
        first, second = request.query_params.get("first", ""), request.query_params.get("second", "")
        return _json(await asyncio.to_thread(data.diff, first, second))

    async def report(request: Request) -> Response:
        name = request.path_params["name"]
        file = places.root / "reports" / "evidently" / name
        if not _NAME.fullmatch(name) or not file.is_file():
            return Response("not found", 404, HEADERS, "text/plain")
        return FileResponse(file, media_type="text/html", headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY})

    return [
        Route("/", page),
        Route("/dashboard/data.json", guarded(everything)),
        Route("/dashboard/diff.json", guarded(diff)),
        Route("/dashboard/{name}", page),
        Route("/reports/evidently/{name}", guarded(report)),
    ]


def _json(values: Any, status: int = 200) -> Response:
    body = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")
    return Response(body, status, HEADERS, "application/json")
