"""The gateway's HTTP side: authentication, limits and routes. Errors have the form of OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from fst.config import ServeParams
from fst.environment import from_environment
from fst.errors import EngineError, FstError, VerifierError
from fst.serving import openai, traces
from fst.serving.allowance import allowance
from fst.serving.answering import MODEL, Answering
from fst.serving.door import Door
from fst.serving.feedback import reward_of, said
from fst.serving.keys import Caller, Keys, Right
from fst.serving.openai import Asked, BadRequest
from fst.serving.patience import unless_gone
from fst.serving.replies import SAFE, Busy, event, failure, reply

log = logging.getLogger("fst.gateway")
JSON = "application/json"
SAYS: dict[Right, str] = {"ask": "ask", "feedback": "give feedback", "admin": "roll back"}
Handler = Callable[[Request, Caller], Awaitable[Response]]


class Gateway:
    """The gateway's routes, on top of an `Answering`. `in_hand` counts the requests that are being answered."""

    def __init__(self, answering: Answering, params: ServeParams, keys: Keys, max_new_tokens: int) -> None:
        self.answering, self.params, self.keys, self.most_tokens = answering, params, keys, max_new_tokens
        self.live, self.metrics = answering.live, answering.metrics
        self.allowance = allowance(params.requests_per_minute, from_environment("serve.limits_url", params.limits_url))
        self.in_hand = 0
        self.draining = False
        self.began = time.time()

    def app(self, pages: Sequence[BaseRoute] = ()) -> Starlette:
        """Make the ASGI application, with `pages` as further routes. Its lifespan starts and stops the engine."""
        routes: list[BaseRoute] = [
            Route("/v1/chat/completions", self._guarded(self._completions, "ask"), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._completions, "ask"), methods=["POST"]),
            Route("/v1/models", self._guarded(self._models), methods=["GET"]),
            Route("/v1/feedback", self._guarded(self._feedback, "feedback"), methods=["POST"]),
            Route("/admin/rollback", self._guarded(self._rollback, "admin"), methods=["POST"]),
            Route("/admin/state", self._guarded(self._state), methods=["GET"]),
            Route("/healthz", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            *pages,
        ]
        door = Middleware(Door, self.keys, self.params.allowed_hosts)
        return Starlette(routes=routes, lifespan=self._lifespan, middleware=[door])

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.answering.worker.start()
        await self.live.look()
        following = asyncio.create_task(self.live.follow())
        try:
            yield
        finally:
            self.draining = True
            following.cancel()
            self.answering.worker.close()
            self.answering.log.close()
            await self.allowance.close()

    # -- authentication, errors and accounting ----------------------------------------------------------

    def _guarded(self, handler: Handler, right: Right | None = None) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: admit only callers whose key has the right (None: any known key), turn exceptions into error
        responses, and account for the request."""

        async def guarded(request: Request) -> Response:
            started, caller = time.monotonic(), None
            try:
                caller = await self._admitted(request, right)
                response = await handler(request, caller)
            except BadRequest as exc:
                response = failure(str(exc), exc.status, exc.code, getattr(exc, "seconds", None), exc.param)
            except EngineError as exc:
                response = failure(str(exc), 503, "engine_unavailable", 2)
            except FstError as exc:
                response = failure(str(exc), 409, "refused")
            except TimeoutError:
                response = failure(f"no token within {self.params.timeout_seconds:g} s", 504, "timeout")
            except Exception:
                log.exception("a request failed")
                response = failure("internal error; see the gateway's log", 500, "internal_error")
            if not isinstance(response, StreamingResponse):
                self._account(request, response.status_code, response.headers, caller, time.monotonic() - started)
            return response

        return guarded

    async def _admitted(self, request: Request, right: Right | None) -> Caller:
        """Return the caller of an admitted request. Raises BadRequest for one that is refused."""
        for name in ("x-fst-domain", "authorization"):
            if any(ord(c) < 32 or ord(c) == 127 for c in request.headers.get(name, "")):
                raise BadRequest(f"{name}: contains control characters", 400, "invalid_header")
        caller = self.keys.caller(request.headers.get("authorization", ""))
        if caller is None:
            raise BadRequest("no such key; send a valid one as `Authorization: Bearer KEY`", 401, "invalid_api_key")
        if right and not caller.may(right):
            raise BadRequest(
                f"this needs a key with another role ({caller.role} may not {SAYS[right]})", 403, "forbidden"
            )
        if self.draining:
            raise Busy("the gateway is shutting down", 503, 5)
        if wait := await self.allowance.wait_seconds(caller.tenant):
            raise Busy(f"more than {self.params.requests_per_minute} requests per minute", 429, wait)
        return caller

    async def _values(self, request: Request) -> dict[str, Any]:
        """Read the JSON object in a request's body. Raises BadRequest, also for any other content type: a browser sends
        JSON to another site only if its server agrees, but sends plain text without asking."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON:
            raise BadRequest(f"Content-Type: expected {JSON}", 415, "unsupported_media_type")
        return openai.parse_json(await self._body(request))

    async def _body(self, request: Request) -> bytes:
        """Read the body of a request. Raises BadRequest as soon as it is known to exceed `serve.max_body_bytes`.
        Starlette's `max_body_size` is not used: if the declared length is too large, it answers in plain text."""
        most = self.params.max_body_bytes
        said = request.headers.get("content-length", "0")
        if not said.isdecimal() or int(said) > most:
            raise BadRequest(f"the body is longer than {most} bytes", 413, "too_large")
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > most:
                raise BadRequest(f"the body is longer than {most} bytes", 413, "too_large")
        return b"".join(parts)

    def _account(self, request: Request, status: int, headers: Any, caller: Caller | None, seconds: float) -> None:
        """Write a line to the access log, without question and answer, and count the request for Prometheus."""
        domain, release = headers.get("X-FST-Domain", ""), headers.get("X-FST-Release", "")
        variant = "canary" if self.live.trial and self.live.trial.release.id == release else "production"
        if request.url.path.startswith("/v1/c"):
            if status >= 400:
                traces.failed(request.url.path, status, seconds, request.headers.get("traceparent", ""))
            self.metrics.requests.labels(domain, str(status), variant).inc()
            self.metrics.seconds.observe(seconds)
        line = {
            "at": round(time.time(), 3),
            "path": request.url.path,
            "status": status,
            "tenant": caller.tenant if caller else None,
            "id": headers.get("X-FST-Response-Id"),
            "domain": domain,
            "release": release[:12],
            "ms": round(1000 * seconds, 1),
        }
        sys.stderr.write(json.dumps(line, separators=(",", ":")) + "\n")

    # -- routes -----------------------------------------------------------------------------------------

    async def _completions(self, request: Request, caller: Caller) -> Response:
        if self.in_hand >= self.params.max_waiting:
            raise Busy(f"{self.in_hand} requests are already being answered", 429, 1)
        self.in_hand += 1
        counted = True
        try:
            values = await self._values(request)
            asked = openai.parse_request(values, self.most_tokens, request.url.path.endswith("/chat/completions"))
            plan = self.answering.plan(
                asked, request.headers.get("x-fst-domain", ""), request.headers.get("traceparent", "")
            )
            if asked.stream:
                counted = False  # the stream lowers the count when it ends
                return StreamingResponse(
                    self._events(request, plan, asked, caller),
                    headers={**SAFE, **plan.headers},
                    media_type="text/event-stream",
                )
            found = await unless_gone(request.receive, self.answering.answer(plan, asked, caller.tenant))
            usage = (len(plan.ids), sum(len(answer.tokens) for answer, _, _ in found))
            body = openai.whole(plan.id, asked, asked.model, [(text, finish) for _, text, finish in found], usage)
            return reply(body, 200, plan.headers)
        finally:
            if counted:
                self.in_hand -= 1

    async def _events(self, request: Request, plan: Any, asked: Asked, caller: Caller) -> AsyncIterator[bytes]:
        """Yield a streamed answer as server-sent events; a failure midway becomes an event too."""
        started, status, written = time.monotonic(), 200, 0
        try:
            if asked.chat:
                for index in range(asked.n):
                    yield event(openai.chunk(plan.id, asked, asked.model, index, None, None))
            async for index, text, finish in self.answering.stream(plan, asked, caller.tenant):
                written += 1
                if text:
                    yield event(openai.chunk(plan.id, asked, asked.model, index, text, None))
                if finish:
                    yield event(openai.chunk(plan.id, asked, asked.model, index, "", finish))
            if asked.usage:
                yield event(openai.last_chunk(plan.id, asked, asked.model, (len(plan.ids), written)))
            yield b"data: [DONE]\n\n"
        except (EngineError, TimeoutError) as exc:
            status = 503 if isinstance(exc, EngineError) else 504
            yield event(openai.error(str(exc) or "no token in time", "engine_unavailable"))
        finally:
            self.in_hand -= 1
            self._account(request, status, plan.headers, caller, time.monotonic() - started)

    async def _models(self, request: Request, caller: Caller) -> Response:
        release = self.live.production
        names = [MODEL, *(f"{MODEL}/{domain}" for domain in release.domains)] if release else [MODEL]
        data = [{"id": n, "object": "model", "created": int(self.live.since), "owned_by": "fst"} for n in names]
        return reply({"object": "list", "data": data})

    async def _feedback(self, request: Request, caller: Caller) -> Response:
        told = said(await self._values(request), caller.tenant)
        found = self.answering.responses.get(told.id, caller.tenant)
        if found is None:
            raise BadRequest("none of your responses has this id", 404, "unknown_response")
        if told.answer is not None and self.live.production:
            try:
                scored = reward_of(found, told.answer, self.live.production.manifest)
            except VerifierError as exc:
                raise BadRequest(f"answer: {exc}") from exc
            if scored is not None:
                told = replace(told, reward=scored, scored_by="verifier")
        self.answering.log.append(told)
        traces.judged(found, told)
        if told.reward is not None:
            self.metrics.rewards.labels(found.domain).observe(told.reward)
            self.live.scored(found.release, told.reward)
        return reply({"id": told.id, "reward": told.reward, "scored_by": told.scored_by})

    async def _rollback(self, request: Request, caller: Caller) -> Response:
        values = await self._values(request)
        to, channel = values.get("to"), values.get("channel", self.live.channel)
        if not isinstance(to, (str, type(None))) or not isinstance(channel, str):
            raise BadRequest("to and channel: expected strings")
        reason = f"by {caller.tenant}, over HTTP"
        moved = await asyncio.to_thread(self.live.releases.rollback, channel, to, reason)
        await self.live.look()
        return reply({"channel": channel, "bundle": moved.bundle})

    async def _state(self, request: Request, caller: Caller) -> Response:
        return reply(self.state())

    def state(self) -> dict[str, Any]:
        """The releases in force, the canary and the engine, as /admin/state and the page show them."""
        live, worker = self.live, self.answering.worker
        trial = live.trial
        return {
            "channel": live.channel,
            "production": live.production.id if live.production else None,
            "since": live.since,
            "domains": live.production.domains if live.production else [],
            "canary": {"release": trial.release.id, "scored": len(trial.own), "of": self.params.canary_scored}
            if trial
            else None,
            "shadow": live.shadow.id if live.shadow else None,
            "swaps": live.swaps,
            "problem": live.problem,
            "engine": {"pid": worker.pid, "restarts": worker.restarts},
            "in_hand": self.in_hand,
            "draining": self.draining,
            "began": self.began,
        }

    async def _health(self, request: Request) -> Response:
        live = self.live
        says = "draining" if self.draining else "degraded" if live.problem or not live.production else "ok"
        ready = live.production is not None and not self.draining
        return reply({"status": says, "problem": live.problem}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        self.metrics.in_hand.set(self.in_hand)
        self.metrics.restarts.set(self.answering.worker.restarts)
        self.metrics.swaps.set(self.live.swaps)
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4", headers=SAFE)
