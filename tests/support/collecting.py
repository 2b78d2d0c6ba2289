"""The SDK of OpenTelemetry with exporters into memory: what would be sent, as a fixture `collected`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fst import spans


@dataclass
class Collected:
    """What was sent since the fixture began."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self) -> list[Any]:
        """The spans that are over, in the order in which they ended."""
        return list(self.exporter.get_finished_spans())

    def points(self, name: str) -> list[Any]:
        """The data points of an instrument."""
        return [point for found, point in self._points() if found == name]

    def metrics(self) -> dict[str, list[float]]:
        """The values of gauges and the sums of histograms, by the names of the instruments."""
        found: dict[str, list[float]] = {}
        for name, point in self._points():
            found.setdefault(name, []).append(point.value if hasattr(point, "value") else point.sum)
        return found

    def _points(self) -> Iterator[tuple[str, Any]]:
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, point


@pytest.fixture
def collected() -> Iterator[Collected]:
    found = Collected(InMemorySpanExporter(), InMemoryMetricReader())
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(found.exporter))
    spans.use(tracing, MeterProvider([found.reader]))
    yield found
    spans.stop()
