"""What the gateway sends to OpenTelemetry (fst/spans.py), by its conventions for generative AI.

An answered request is a span `chat fst` with the client's as its parent, and one each in the histograms of duration,
tokens, time to the first token and time per token. A refused or failed one is a span with its status as the error.
Feedback is a span `feedback` below that of the response, which also has the response's id.
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


def answered(plan: Plan, asked: Asked, written: int, finishes: Sequence[str], seconds: float) -> str:
    """Send an answered request: `written` tokens, in so many seconds. Returns its span's traceparent."""
    common = _common("chat" if asked.chat else "text_completion", plan.domain)
    released = {**common, "gen_ai.response.model": plan.release.id[:12]}
    spans.measure("gen_ai.server.request.duration", seconds, released, "s")
    for kind, tokens in (("input", len(plan.ids)), ("output", written)):
        spans.measure("gen_ai.client.token.usage", tokens, {**released, "gen_ai.token.type": kind}, "{token}")
    first = plan.first_token[0] - plan.began if plan.first_token else None
    if first is not None:
        spans.measure("gen_ai.server.time_to_first_token", first, released, "s")
        if asked.n == 1 and written > 1:
            spans.measure("gen_ai.server.time_per_output_token", (seconds - first) / (written - 1), released, "s")
    values = {
        **released,
        "gen_ai.request.model": asked.model,
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
    return spans.done(
        f"{common['gen_ai.operation.name']} {common['gen_ai.request.model']}", values, seconds, plan.trace
    )


def failed(path: str, status: int, seconds: float, parent: str) -> None:
    """Send a request for an answer that got none."""
    common = _common("chat" if path.endswith("/chat/completions") else "text_completion", "")
    error = str(status)
    common.pop("gen_ai.request.model")  # it may not have been read
    spans.measure("gen_ai.server.request.duration", seconds, {**common, "error.type": error}, "s")
    name = common["gen_ai.operation.name"]
    spans.done(name, {**common, "http.response.status_code": status}, seconds, parent, error)


def judged(found: Remembered, told: Feedback) -> None:
    """Send feedback on a response, below its span. The comment and the right answer stay here."""
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
        spans.measure("fst.feedback.reward", told.reward, about, "1")


def _common(operation: str, domain: str) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": f"{PROVIDER}/{domain}" if domain else PROVIDER,  # never the client's own words
        "fst.domain": domain,
    }
