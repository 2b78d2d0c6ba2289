"""Answers a request: picks its release, domain and prompt, asks the engine, and writes the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fst.errors import EngineError
from fst.models.sampler import Answer, Ask
from fst.serving.encode import Encoder
from fst.serving.feedback import Responses
from fst.serving.live import Live, Release, Variant
from fst.serving.metrics import Metrics
from fst.serving.openai import Asked, BadRequest, answer_id, finished
from fst.serving.patience import Patience
from fst.serving.threads import Threads
from fst.serving.traces import answered
from fst.serving.worker import Worker
from fst.traffic.log import Request, TrafficLog

MODEL = "fst"
log = logging.getLogger("fst.gateway")


@dataclass(frozen=True)
class Plan:
    """How a request will be answered. `domain` is "" if unknown, `routed` says how it was found, `novelty` is in [0,
    1]; `prompt` is the id of the prompt, `ids` the token ids of the conversation with the prompt in front, `trace` the
    client's traceparent. `began` and `first_token`, a list that gets one entry with the first token, are monotonic
    times in seconds."""

    id: str
    release: Release
    variant: Variant
    domain: str
    routed: Literal["header", "model", "router", "unknown"]
    novelty: float
    prompt: str
    ids: tuple[int, ...]
    trace: str = ""
    began: float = field(default_factory=time.monotonic, compare=False)
    first_token: list[float] = field(default_factory=list, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-FST-Response-Id": self.id, "X-FST-Release": self.release.id, "X-FST-Domain": self.domain}


@dataclass
class Answering:
    """Answers requests with the releases in force, and records every answer."""

    live: Live
    worker: Worker | Threads
    encoder: Encoder
    log: TrafficLog
    responses: Responses
    metrics: Metrics

    def __post_init__(self) -> None:
        self._shadows: set[asyncio.Task[None]] = set()

    def plan(self, asked: Asked, named: str, trace: str = "") -> Plan:
        """Plan the answer to a request; `named` is the domain in its header, or "". Raises BadRequest for an unknown
        domain or model, for a text that is too long, and while the channel has no release."""
        request = answer_id(asked.chat)
        chosen = self.live.choose(request)
        if chosen is None:
            raise BadRequest(f"channel {self.live.channel!r} has no release yet", 503, "no_release")
        return replace(self._planned(request, asked, named, *chosen), trace=trace)

    def _planned(self, request: str, asked: Asked, named: str, release: Release, variant: Variant) -> Plan:
        domain, routed, novelty = self._domain(asked, named, release)
        prompt, text = release.prompt(domain, self.live.params.prompts == "dealt")
        try:
            ids = tuple(self.encoder.chat(text, asked.messages, release.template_options))
        except ValueError as exc:
            raise BadRequest(str(exc)) from exc
        context = self.encoder.context
        if context is not None and len(ids) + asked.max_tokens > context:
            raise BadRequest(
                f"the request has {len(ids)} tokens and asks for {asked.max_tokens}; the model's context is {context}",
                400,
                "context_length_exceeded",
            )
        return Plan(request, release, variant, domain, routed, novelty, prompt, ids)

    def _domain(self, asked: Asked, named: str, release: Release) -> tuple[str, Any, float]:
        """Find the domain of a request; returns it, how it was found, and the novelty of the text. Raises BadRequest
        for an unknown domain or model."""
        route = release.route(asked.question)
        if named:
            if named not in release.prompts:
                raise BadRequest(
                    f"X-FST-Domain: there is no such domain; known: {_known(release)}", 404, "unknown_domain"
                )
            return named, "header", route.novelty
        if asked.model != MODEL:
            domain = asked.model.removeprefix(f"{MODEL}/")
            if domain not in release.prompts or domain == asked.model:
                models = ", ".join([MODEL, *(f"{MODEL}/{name}" for name in release.domains)])
                raise BadRequest(f"model: there is no such model; known: {models}", 404, "model_not_found")
            return domain, "model", route.novelty
        return (route.domain, "router", route.novelty) if route.known else ("", "unknown", route.novelty)

    async def answer(self, plan: Plan, asked: Asked, tenant: str) -> list[tuple[Answer, str, str]]:
        """Return the n answers as (answer, text, finish reason), and record them in the log. Raises EngineError, and
        TimeoutError if no token comes for `serve.timeout_seconds`."""
        started = time.monotonic()
        patience = Patience(self.live.params.timeout_seconds)
        with self._writing(plan, asked, patience.heard) as whole:
            answers = await patience.wait(whole)
        found = [(answer, *finished(answer, asked, self.encoder.is_control)) for answer in answers]
        self.record(plan, asked, tenant, found, time.monotonic() - started)
        return found

    async def stream(self, plan: Plan, asked: Asked, tenant: str) -> AsyncIterator[tuple[int, str, str | None]]:
        """Yield (index of the answer, new text, finish reason); the reason is None until the end. Text that was sent is
        never retracted. Raises EngineError and TimeoutError as `answer` does."""
        started = time.monotonic()
        pieces: asyncio.Queue[tuple[int, int | None]] = asyncio.Queue()
        heard: dict[int, list[int]] = {i: [] for i in range(asked.n)}
        told = dict.fromkeys(range(asked.n), "")
        with self._writing(plan, asked, lambda index, token: pieces.put_nowait((index, token))) as whole:
            whole.add_done_callback(lambda _: pieces.put_nowait((-1, None)))
            while True:
                async with asyncio.timeout(self.live.params.timeout_seconds):
                    index, token = await pieces.get()
                if token is None:
                    break
                heard[index].append(token)
                text = self._safe(heard[index], asked)
                if text.startswith(told[index]) and len(text) > len(told[index]):
                    new, told[index] = text[len(told[index]) :], text
                    yield index, new, None
            found = [(answer, *finished(answer, asked, self.encoder.is_control)) for answer in await whole]
        self.record(plan, asked, tenant, found, time.monotonic() - started)
        for index, (_, text, finish) in enumerate(found):
            yield index, text[len(told[index]) :] if text.startswith(told[index]) else "", finish

    def _safe(self, tokens: list[int], asked: Asked) -> str:
        """The part of the text so far that no later token can change: it ends before an incomplete character and before
        anything that may be the beginning of a stop text."""
        text = self.encoder.text(tokens)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        for stop in asked.stop:
            text = text.partition(stop)[0]
            held = next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)
            text = text[: len(text) - held]
        return text

    def record(
        self, plan: Plan, asked: Asked, tenant: str, found: list[tuple[Answer, str, str]], seconds: float
    ) -> None:
        """Log an answered request with the first of its answers, remember it for feedback, and let the shadow release
        answer it too."""
        answer, text, finish = found[0]
        others = sum(len(other.tokens) for other, _, _ in found[1:])
        trace = answered(plan, asked, len(answer.tokens) + others, [end for _, _, end in found], seconds)
        self._write(plan, asked, tenant, text, (len(plan.ids), len(answer.tokens)), seconds, finish)
        self.metrics.tokens.labels("written").inc(others)
        if trace:
            self.responses.traced(plan.id, trace)
        if plan.first_token:
            self.metrics.first_token.observe(plan.first_token[0] - plan.began)
        if self.live.shadow and plan.variant != "shadow":
            task = asyncio.get_running_loop().create_task(self._shadow(plan, asked, tenant))
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    def _write(
        self, plan: Plan, asked: Asked, tenant: str, text: str, tokens: Any, seconds: float, finish: Any
    ) -> None:
        request = Request(
            plan.id,
            time.time(),
            tenant,
            plan.domain,
            plan.routed,
            round(plan.novelty, 4),
            plan.release.id,
            plan.variant,
            plan.prompt,
            asked.question,
            text,
            tokens,
            round(seconds, 4),
            finish,
            200,
        )
        self.log.append(request)
        if plan.variant != "shadow":
            self.responses.add(request)
        self.metrics.novelty.observe(plan.novelty)
        self.metrics.tokens.labels("read").inc(tokens[0])
        self.metrics.tokens.labels("written").inc(tokens[1])

    async def _shadow(self, plan: Plan, asked: Asked, tenant: str) -> None:
        release = self.live.shadow
        if release is None:
            return
        started, patience = time.monotonic(), Patience(self.live.params.timeout_seconds)
        try:
            named = plan.domain if plan.domain in release.prompts else ""
            copy = self._planned(f"{plan.id}-shadow", asked, named, release, "shadow")
            with self._writing(copy, replace(asked, n=1), patience.heard) as whole:
                (answer,) = await patience.wait(whole)
        except (EngineError, BadRequest, TimeoutError) as exc:
            log.warning("the shadow release failed to answer: %s", exc)
            return
        text, finish = finished(answer, asked, self.encoder.is_control)
        tokens = (len(copy.ids), len(answer.tokens))
        self._write(copy, asked, tenant, text, tokens, time.monotonic() - started, finish)

    @contextmanager
    def _writing(
        self, plan: Plan, asked: Asked, heard: Callable[[int, int], None]
    ) -> Iterator[asyncio.Future[list[Answer]]]:
        """Start the n answers and yield their future; `heard` is called with (index of the answer, token). Answers that
        are unfinished at the end of the block are cancelled in the engine."""

        def told(index: int, token: int) -> None:
            if not plan.first_token:
                plan.first_token.append(time.monotonic())
            heard(index, token)

        def one(index: int) -> asyncio.Task[Answer]:
            ask = self._asking(plan, asked, index)
            return asyncio.ensure_future(self.worker.generate(ask, lambda token: told(index, token)))

        with plan.release.held():
            answers = [one(index) for index in range(asked.n)]
            whole = asyncio.gather(*answers)
            whole.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may never be awaited
            try:
                yield whole
            finally:
                for answer in answers:
                    answer.cancel()

    @staticmethod
    def _asking(plan: Plan, asked: Asked, index: int) -> Ask:
        return Ask(plan.ids, plan.release.adapter, asked.max_tokens, asked.temperature, asked.seed + index, asked.top_p)


def _known(release: Release) -> str:
    return ", ".join(release.domains) or "none"
