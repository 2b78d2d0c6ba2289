"""Sends the gateway's requests and feedback to OpenTelemetry (fst/spans.py), by its conventions for generative AI.

An answered request is a span `chat fst/DOMAIN`, a child of the client's span, and an entry in each of the histograms of
duration, tokens, time to the first token and time per token. A refused or failed request is a span with its status as
the error. Feedback is a span `feedback` below that of the response, with the attributes of the conventions' evaluation
event; that event itself would be a log record, and logs are not sent.
https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fst import spans

if TYPE_CHECKING:
    from fst.serving.answering import Plan
    from fst.serving.feedback import Remembered
    from fst.serving.openai import Asked
    from fst.traffic.log import Feedback

PROVIDER = "fst"
_SECONDS = tuple(0.01 * 2**n for n in range(14))
HISTOGRAMS = {  # name -> unit and bounds, as the conventions have them
    "gen_ai.server.request.duration": ("s", _SECONDS),
    "gen_ai.server.time_to_first_token": (
        "s",
        (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    ),
    "gen_ai.server.time_per_output_token": (
        "s",
        (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    ),
    "gen_ai.client.token.usage": ("{token}", tuple(4**n for n in range(14))),
    "fst.feedback.reward": ("1", tuple(n / 10 for n in range(11))),
}


def answered(plan: Plan, asked: Asked, written: int, finishes: Sequence[str], seconds: float) -> str:
    """Send an answered request: `written` tokens in `seconds`. Returns its span's traceparent; "" if spans are off."""
    if not spans.on():
        return ""
    operation = "chat" if asked.chat else "text_completion"
    model = f"{PROVIDER}/{plan.domain}" if plan.domain else PROVIDER  # never the client's own words
    about = {
        **_about(operation),
        "gen_ai.request.model": model,
        "gen_ai.response.model": plan.release.id[:12],
        "fst.domain": plan.domain,
    }
    _measure("gen_ai.server.request.duration", seconds, about)
    for kind, tokens in (("input", len(plan.ids)), ("output", written)):
        _measure("gen_ai.client.token.usage", tokens, {**about, "gen_ai.token.type": kind})
    if plan.first_token:
        first = plan.first_token[0] - plan.began
        _measure("gen_ai.server.time_to_first_token", first, about)
        if asked.n == 1 and written > 1:
            _measure("gen_ai.server.time_per_output_token", (seconds - first) / (written - 1), about)
    values = {
        **about,
        "gen_ai.response.id": plan.id,
        "gen_ai.response.finish_reasons": tuple(finishes),
        "gen_ai.usage.input_tokens": len(plan.ids),
        "gen_ai.usage.output_tokens": written,
        "gen_ai.request.max_tokens": asked.max_tokens,
        "gen_ai.request.temperature": asked.temperature,
        "gen_ai.request.top_p": asked.top_p,
        "gen_ai.request.choice.count": asked.n if asked.n > 1 else None,
        "gen_ai.request.stream": asked.stream,
        "fst.release": plan.release.id,
        "fst.variant": plan.variant,
        "fst.prompt": plan.prompt,
        "fst.routed": plan.routed,
        "fst.novelty": round(plan.novelty, 4),
    }
    return spans.done(f"{operation} {model}", values, seconds, plan.trace)


def failed(path: str, status: int, seconds: float, parent: str) -> None:
    """Send a request that got no answer. It has no model, as its body may not have been read."""
    if not spans.on():
        return
    operation = "chat" if path.endswith("/chat/completions") else "text_completion"
    about = {**_about(operation), "error.type": str(status)}
    _measure("gen_ai.server.request.duration", seconds, about)
    spans.done(operation, {**about, "http.response.status_code": status}, seconds, parent, str(status))


def judged(found: Remembered, told: Feedback) -> None:
    """Send feedback on a response, below its span. The comment and the right answer are not sent."""
    if not spans.on():
        return
    values = {
        "gen_ai.response.id": told.id,
        "gen_ai.evaluation.name": f"feedback.{told.scored_by}",
        "gen_ai.evaluation.score.value": told.reward,
        "fst.domain": found.domain,
        "fst.release": found.release,
        "fst.feedback.has_answer": told.answer is not None,
        "fst.feedback.has_comment": bool(told.comment),
    }
    spans.done("feedback", values, parent=found.trace)
    if told.reward is not None:
        about = {"fst.domain": found.domain, "gen_ai.response.model": found.release[:12]}
        _measure("fst.feedback.reward", told.reward, about)


def _about(operation: str) -> dict[str, Any]:
    return {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER}


def _measure(name: str, value: float, about: dict[str, Any]) -> None:
    unit, bounds = HISTOGRAMS[name]
    spans.measure(name, value, about, unit, bounds)
