"""Spans and metrics by OpenTelemetry: off unless the environment says where they go, and then sent over OTLP/HTTP.

OTEL_EXPORTER_OTLP_ENDPOINT (a collector, e.g. http://127.0.0.1:4318) switches both on, its variants for TRACES and
METRICS one of the two; OTEL_SDK_DISABLED=true switches all off again, OTEL_TRACES_EXPORTER=none or
OTEL_METRICS_EXPORTER=none one of the two. The SDK reads its other variables itself (headers, sampler, service name,
resource attributes). This file alone imports opentelemetry, and only where it is on. A collector that is out of reach
costs no work: the SDK sends from threads of its own, and gives up after seconds when the process ends.

No question, answer, prompt or comment is in what is sent, nor an exception's text, which may quote one: texts stay in
the project's own records.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fst.errors import MissingDependency
from fst.extras import require

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SIGNALS = {"TRACES": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "METRICS": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"}
_SCOPE = "fst"
_log = logging.getLogger(__name__)

Values = Mapping[str, Any]  # attributes; a None is left out


def asked(signal: str) -> bool:
    """Whether the environment asks for `TRACES` or `METRICS`."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp") != "otlp":
        return False
    return bool(os.environ.get(ENDPOINT) or os.environ.get(_SIGNALS[signal]))


@dataclass
class _Sending:
    """What this process sends with; None for what is off."""

    tracer: Any = None
    meter: Any = None
    providers: list[Any] = field(default_factory=list)
    instruments: dict[str, Any] = field(default_factory=dict)


_on: _Sending | None = None


def on() -> bool:
    """Whether this process sends anything; where it does not, nobody need put figures together."""
    return _on is not None


def start(service: str) -> None:
    """Switch on what the environment asks for, for the rest of the process; `service` is its name unless
    OTEL_SERVICE_NAME says another. Where the extra `otel` is not installed, a warning says so: work goes on. Of the
    processes that train together only the first sends, since they all see the same."""
    if _on is None and os.environ.get("RANK", "0") == "0" and (asked("TRACES") or asked("METRICS")):
        try:
            require("otel")
        except MissingDependency as exc:
            _log.warning("%s; nothing is sent to the collector", exc)
            return
        _start(service)


def _start(service: str) -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or service})
    if asked("TRACES"):
        tracing = TracerProvider(resource=resource)
        tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracing)  # that of other libraries as well: Prefect's flows and tasks are spans
        use(tracing, None)
    if asked("METRICS"):
        measuring = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource)
        metrics.set_meter_provider(measuring)
        use(None, measuring)


def use(tracing: Any, measuring: Any) -> None:
    """Send by these providers of the SDK; None leaves one as it is."""
    global _on
    _on = _on or _Sending()
    if tracing is not None:
        _on.tracer = tracing.get_tracer(_SCOPE)
        _on.providers.append(tracing)
    if measuring is not None:
        _on.meter = measuring.get_meter(_SCOPE)
        _on.providers.append(measuring)


def stop() -> None:
    """Send what is waiting, and switch off. A process that ends does so by itself."""
    global _on
    found, _on = _on, None
    for provider in found.providers if found else ():
        provider.shutdown()


@contextlib.contextmanager
def span(name: str, values: Values | None = None, parent: str = "") -> Iterator[None]:
    """A span around a block, the current one in it; `parent` is a traceparent, else the current span is it. The kind
    of an exception is noted, and it goes on."""
    if _on is None or _on.tracer is None:
        yield
        return
    with _on.tracer.start_as_current_span(
        name, _context(parent), attributes=_given(values or {}), record_exception=False, set_status_on_exception=False
    ) as one:
        try:
            yield
        except BaseException as exc:
            _fail(one, type(exc).__name__)
            raise


def done(name: str, values: Values, seconds: float = 0.0, parent: str = "", error: str = "") -> str:
    """Write down a span that is over: it ends now and lasted so long. Returns its traceparent, "" where nothing is
    sent."""
    if _on is None or _on.tracer is None:
        return ""
    from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

    end = time.time_ns()
    kind = SpanKind.SERVER if "gen_ai.operation.name" in values else SpanKind.INTERNAL
    one = _on.tracer.start_span(
        name, _context(parent), kind, attributes=_given(values), start_time=end - int(seconds * 1e9)
    )
    if error:
        _fail(one, error)
    one.end(end)
    context = one.get_span_context()
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"


def describe(values: Values) -> None:
    """Add attributes to the current span."""
    if _on is not None and _on.tracer is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attributes(_given(values))


def current() -> str:
    """The traceparent of the current span, for another process; "" where there is none."""
    if _on is None or _on.tracer is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def measure(name: str, value: float, values: Values, unit: str = "", bounds: Sequence[float] = ()) -> None:
    """Record a figure: into a histogram with these bounds or, without any, as the value that holds from now on."""
    if _on is None or _on.meter is None:
        return
    if name not in _on.instruments:
        _on.instruments[name] = (
            _on.meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=bounds)
            if bounds
            else _on.meter.create_gauge(name, unit)
        )
    instrument = _on.instruments[name]
    (instrument.record if bounds else instrument.set)(value, _given(values))


def _fail(one: Any, error: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    one.set_attribute("error.type", error)
    one.set_status(Status(StatusCode.ERROR))


def _context(parent: str) -> Any:
    """The context that a traceparent stands for; None, the current one, where it is none."""
    if not parent:
        return None
    from opentelemetry.context import get_current
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent}, get_current())


def _given(values: Values) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}
