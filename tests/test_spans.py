"""Spans and metrics (fst/spans.py). O1 nothing is imported, sent, returned or put together unless the environment asks;
O2 what is sent arrives at a collector over OTLP/HTTP, under the service's name; O3 spans have parents, durations and
errors without their text, also across processes; O4 without the package work goes on, with a
warning that says what to install; O5 a run's rounds, steps and figures are spans and gauges, without a text of its
problems."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fst import spans
from fst.method.run.spans import noted
from fst.serving.traces import answered, failed, judged
from support.collecting import Collected, collected
from support.imports import ROOT

__all__ = ["collected"]


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP, as an OpenTelemetry collector does."""

    posted: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    posted: list[tuple[str, bytes]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Collector,), {"posted": posted}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", script], env={**kept, **environment}, capture_output=True, text=True, cwd=ROOT
    )


WORK = """
import sys
from fst import spans
spans.start("fst-test")
with spans.span("outer", {"fst.n": 1}):
    print(bool(spans.done("inner", {"fst.m": 2, "fst.none": None}, 0.5)))
    spans.measure("fst.figure", 0.25, {"fst.run": "r"})
print("opentelemetry" in sys.modules)
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {spans.ENDPOINT: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {spans.ENDPOINT: "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {spans.ENDPOINT: "http://127.0.0.1:9", "RANK": "1"},  # the first of several processes sends
    ],
)
def test_o1_off_unless_asked(environment: dict[str, str]) -> None:
    done = run(WORK, **environment)
    assert (done.stdout, done.stderr) == ("False\nFalse\n", "")


def test_o1_what_is_not_sent_is_not_looked_at() -> None:
    nothing: Any = None
    assert answered(nothing, nothing, 0, (), 0.0) == ""
    failed(nothing, 400, 0.0, "")
    judged(nothing, nothing)
    noted("step", "run", nothing)


def test_o2_a_collector_gets_it(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, posted = collector
    done = run(WORK, **{spans.ENDPOINT: url})
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")
    bodies = dict(posted)
    assert set(bodies) == {"/v1/traces", "/v1/metrics"}
    (resource,) = ExportTraceServiceRequest.FromString(bodies["/v1/traces"]).resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "fst-test"
    found = {span.name: span for span in resource.scope_spans[0].spans}
    assert found["inner"].parent_span_id == found["outer"].span_id
    assert found["inner"].end_time_unix_nano - found["inner"].start_time_unix_nano == 500_000_000
    assert [a.key for a in found["inner"].attributes] == ["fst.m"]
    (measured,) = ExportMetricsServiceRequest.FromString(bodies["/v1/metrics"]).resource_metrics
    (figure,) = measured.scope_metrics[0].metrics
    assert (figure.name, figure.gauge.data_points[0].as_double) == ("fst.figure", 0.25)


def test_o2_one_of_the_two(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, posted = collector
    own = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{url}/v1/metrics", "OTEL_SERVICE_NAME": "mine"}
    assert run(WORK, **own).stdout == "False\nTrue\n"
    ((path, body),) = posted
    assert path == "/v1/metrics"
    resource = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].resource
    assert {a.key: a.value.string_value for a in resource.attributes}["service.name"] == "mine"


def test_o3_an_error_and_a_parent_from_elsewhere(collected: Collected) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    trace = spans.done("refused", {}, parent=parent, error="429")
    (span,) = collected.spans()
    assert trace == f"00-0af7651916cd43dd8448eb211c80319c-{span.context.span_id:016x}-01"
    assert span.parent.span_id == 0xB7AD6B7169203331
    assert (span.status.is_ok, dict(span.attributes)) == (False, {"error.type": "429"})
    spans.done("nonsense", {}, parent="nonsense")
    assert collected.spans()[-1].parent is None


def test_o3_an_exception_is_told_by_its_kind_alone(collected: Collected) -> None:
    with pytest.raises(ValueError, match="secret"), spans.span("round"):
        raise ValueError("secret")
    (span,) = collected.spans()
    assert (span.status.is_ok, dict(span.attributes)) == (False, {"error.type": "ValueError"})
    assert "secret" not in span.to_json()


@pytest.mark.slow
def test_o3_a_flow_s_child_goes_on_with_its_span(collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, posted = collector
    script = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT)!r}]
from fst import spans
from pipelines.worker import Worker
if __name__ == "__main__":
    worker = Worker()
    with spans.span("flow"):
        worker.call(len, "abc", timeout_seconds=60)
    worker.close()
"""
    done = run(script, **{spans.ENDPOINT: url})
    assert done.stderr == ""
    sent = [ExportTraceServiceRequest.FromString(body) for path, body in posted if path == "/v1/traces"]
    found = {s.name: s for one in sent for r in one.resource_spans for scope in r.scope_spans for s in scope.spans}
    assert set(found) == {"flow", "len"}
    assert found["len"].parent_span_id == found["flow"].span_id
    assert found["len"].trace_id == found["flow"].trace_id


def test_o4_without_the_package() -> None:
    script = "import sys; sys.modules['opentelemetry.sdk'] = None\n" + WORK
    done = run(script, **{spans.ENDPOINT: "http://127.0.0.1:9"})
    assert done.stdout.startswith("False\n")
    assert "pip install 'fast-slow-training[otel]'; nothing is sent to the collector" in done.stderr


def test_o5_what_a_run_notes(collected: Collected) -> None:
    run = "letters-1"
    with spans.span("slow round"):
        noted("prompt", run, {"text": "secret", "score": 0.5})
        noted("step", run, {"step": 3, "reward": 0.75, "loss": None, "seconds": 2.0, "kept_groups": 4})
        noted("round", run, {"round": 1, "channel": "slow", "reward": 0.7, "population": ["a"], "seconds": 9.0})
    noted("evaluation", run, {"accuracy": 0.875, "kl": 0.01, "seconds": 20.0, "prompt": "x"})
    step, round_, evaluation = collected.spans()
    assert (step.name, round_.name, evaluation.name) == ("step", "slow round", "evaluation")
    assert step.parent.span_id == round_.context.span_id
    assert step.end_time - step.start_time == 2_000_000_000
    assert dict(step.attributes) == {
        "fst.run": "letters-1", "fst.step": 3, "fst.reward": 0.75, "fst.seconds": 2.0, "fst.kept_groups": 4,
    }  # fmt: skip
    assert dict(round_.attributes)["fst.channel"] == "slow"
    assert evaluation.end_time == evaluation.start_time
    assert collected.metrics() == {
        "fst.step.reward": [0.75], "fst.step.kept_groups": [4], "fst.round.reward": [0.7],
        "fst.evaluation.accuracy": [0.875], "fst.evaluation.kl": [0.01],
    }  # fmt: skip
    assert "secret" not in json.dumps([dict(span.attributes) for span in collected.spans()])
