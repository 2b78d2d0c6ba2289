"""The watcher. W1 silent without drift, heard with it: a new domain in its first window, a drop of the reward after
`windows_in_a_row`; W2 an improvement is no alarm; W3 after an alert a domain is left alone for the cool-down; W4 a
window is judged once, also after a restart; W5 a cluster keeps its name, and names are taken once; W6 the collected
problems are the cluster's own; W7 thresholds are the same for the same reference and grow as windows shrink; W8 alerts
reach webhook, Slack, e-mail and Apprise's services, a dead channel stops nobody, secrets stay unsaid; W9 Evidently's
pages are real; W10 an alert names the tenant whose feedback contradicts the others'."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import random
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.bench.drift import Simulated
from fst.bench.poison import traffic_of
from fst.config import AlertParams, DriftParams
from fst.errors import ConfigError
from fst.lines import read_lines
from fst.monitoring.alerts import Alert, channels, tell
from fst.monitoring.calibration import calibrate, thresholds_of
from fst.monitoring.collected import collected
from fst.monitoring.newcomers import Newcomer, clusters, name_for
from fst.monitoring.signals import Reference, distance, reference_of
from fst.monitoring.watch import Watch
from fst.monitoring.watcher import newcomers_of
from fst.store.bundle import write_bundle
from fst.traffic.log import Exchange, Request
from support.watched import PARAMS, SERVED, Scene


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Simulated(SERVED, PARAMS, 0).watch.reference


@pytest.mark.slow
def test_w1_silent_without_drift_and_heard_with_it() -> None:
    traffic = Simulated(SERVED, PARAMS, 1)
    assert sum(map(len, (traffic.alerts(traffic.window({"digits": 1.0}, {})) for _ in range(30)))) == 0
    found = [traffic.alerts(traffic.window({"digits": 1.0}, {"digits": 0.6})) for _ in range(3)]
    assert found[0] == []
    assert found[1] == ["drifted"]
    traffic.pools["new"] = traffic._fresh("lab/letters:reverse", 1)
    assert "new_domain" in traffic.alerts(traffic.window({"digits": 0.8, "new": 0.2}, {}))


def test_w10_an_alert_names_the_tenant_whose_feedback_contradicts_the_others() -> None:
    told = traffic_of(200, 0.3, rate=0.95)
    watch = Simulated(SERVED, PARAMS, 1).watch
    alerts = []
    for window in (told[:100], told[100:]):
        alerts += watch.judge([Exchange(request, said) for request, said in window], 0.0)[1]
    (alert,) = alerts
    named = [s["signal"] for s in alert.signals if "feedback" in s["signal"]]
    assert named == ["feedback of mallory contradicts the others', confirmed"]
    assert f"{named[0]} 0 (limit 0." in alert.sentence


@pytest.mark.slow
def test_w2_an_improvement_is_no_alarm() -> None:
    worse = PARAMS.replace(seed=3)
    traffic = Simulated(SERVED, worse, 2)
    columns = {**traffic.watch.reference.columns, ("digits", "reward"): reference_of(_rows(0.5))
               .columns["digits", "reward"]}  # fmt: skip
    low = Reference(columns, traffic.watch.reference.questions)
    traffic.watch.reference, traffic.watch.thresholds = low, calibrate(low, worse)
    for _ in range(4):
        assert traffic.alerts(traffic.window({"digits": 1.0}, {"digits": 1.0})) == []


def _rows(reward: float) -> dict[str, Any]:
    rng = random.Random(0)
    rows = [
        {"question": f"digits: {i} {i + 1}", "response": "x", "reward": float(rng.random() < reward), "tokens": 4}
        for i in range(200)
    ]
    return {"digits": {"rows": rows}}


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_w3_alerts_come_after_a_row_and_not_within_the_cool_down(drifts: list[bool], row: int, quiet: int) -> None:
    """Against a model of it: windows a second apart, each beyond its threshold or not."""
    params = DriftParams(window=10, windows_in_a_row=row, cool_down_seconds=float(quiet))
    watch = Watch("c", "r", Reference({}, {"digits": ()}), calibrate(Reference({}, {}), params), params)
    expected, heard, streak, until = [], [], 0, 0.0
    request = Request(
        "i", 0.0, "t", "digits", "router", 0.1, "r", "production", "p", "q", "a", (1, 1), 0.1, "stop", 200
    )
    for now, drift in enumerate(drifts, 1):
        score = {"domain": "digits", "signal": "reward", "score": 1.0, "threshold": 0.5, "beyond": drift}
        window = [Exchange(dataclasses.replace(request, at=float(now)), None)]
        heard += [(alert.at, alert.since) for alert in watch._drifted(window, [score], float(now))]
        streak = streak + 1 if drift else 0
        if streak >= row and now >= until:
            expected.append((float(now), float(now - streak + 1)))
            streak, until = 0, now + quiet
    assert heard == expected


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.log.close()


def test_w4_a_window_is_judged_once_also_after_a_restart(scene: Scene) -> None:
    watcher = scene.watcher()
    watcher.look(now=0.0)
    for size in (25, 30, 7, 50, 8):
        scene.send(size)
        watcher.look(now=1000.0)
        watcher = scene.watcher()  # as if it had been killed
    assert [window["number"] for window in scene.windows()] == [1, 2, 3]
    assert [window["requests"] for window in scene.windows()] == [40] * 3
    assert all(s["n"] == 40 for w in scene.windows() for s in w["scores"] if s["signal"] == "reward"), (
        "with its feedback"
    )
    assert watcher.look(now=1001.0) == []
    assert len(scene.windows()) == 3


def test_w4_what_was_there_before_is_not_judged_and_a_new_release_begins_anew(scene: Scene) -> None:
    scene.send(100)
    watcher = scene.watcher()
    watcher.look(now=0.0)
    assert scene.windows() == []
    scene.send(30)
    watcher.look(now=1000.0)
    old = scene.bundle
    assert old is not None
    rows = old.reference()
    scene.bundle = write_bundle(
        scene.root / "next", {k: v for k, v in old.manifest.items() if k != "files"} | {"metrics": {"x": 1}},
        {"prompts.json": {}, "evaluation.json": {}, "reference.json": rows}, None,
    )  # fmt: skip
    watcher.look(now=1000.0)
    scene.send(39)
    watcher.look(now=1000.0)
    assert scene.windows() == [], "30 of the old release and 39 of the new one are no window"
    scene.send(1)
    watcher.look(now=1000.0)
    assert [w["release"] for w in scene.windows()] == [scene.bundle.id]


def test_w5_w6_a_new_domain_is_named_kept_and_its_problems_collected(scene: Scene) -> None:
    watcher = scene.watcher()
    watcher.look(now=0.0)
    scene.send(10, answer="1 2")
    scene.send(14, domain="", text="please translate {} to french", reward=0.0, answer="le {}")
    scene.send(3, domain="", text="??? {}", reward=0.0, answer="no")
    alerts = watcher.look(now=1000.0)
    assert [(a.kind, a.domain, a.since) for a in alerts] == [("new_domain", "french", 11.0)]
    assert alerts[0].examples[0] == "please translate 11 to french"
    scene.send(12, domain="", text="please translate {} to french", reward=0.0, answer="le {}")
    assert watcher.look(now=1100.0) == [], "within the cool-down"
    again = scene.watcher()
    scene.send(12, domain="", text="please translate {} to french", reward=0.0)
    assert [a.domain for a in again.look(now=5000.0)] == ["french"], "the same name, after the cool-down and a restart"
    pairs = collected(scene.root / "traffic", scene.folder, "french").pairs
    assert len(pairs) == 26, "those with an answer, of this cluster, and no others"
    assert {question.split()[0] for question, _ in pairs} == {"please"}
    assert len(collected(scene.root / "traffic", scene.folder, "french", since=28.0).pairs) == 12
    assert len(collected(scene.root / "traffic", scene.folder, "digits").pairs) == 10
    assert list(newcomers_of(scene.folder)) == ["french"]
    assert [a["domain"] for a in read_lines(scene.folder / "alerts.jsonl")] == ["french", "french"]


def test_w5_names_come_from_the_words_that_others_lack() -> None:
    texts = [f"letters: a b {i}" for i in range(9)]
    assert name_for(texts, {"digits": ["digits: 1 2"] * 5}, set()) == "letters"
    assert name_for(texts, {"digits": ["digits: 1 2"]}, {"letters"}) == "letters-2"
    assert name_for(texts, {}, {"letters", "letters-2"}) == "letters-3"
    assert name_for(["1 2", "3 4"], {}, set()) == "domain"
    assert name_for(["LETTERS: É!"], {"a": ["letters"]}, set()) == "domain"


def test_w5_clusters_are_alike_inside_and_large_enough() -> None:
    first = [f"please translate the word {i} to french" for i in range(6)]
    second = [f"star graph with edges {i} and {i + 1}, find it" for i in range(5)]
    mixed = [*first, "hm", *second]
    assert clusters(mixed, 4) == [[0, 1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert clusters(mixed, 6) == [[0, 1, 2, 3, 4, 5]]
    assert clusters([], 2) == []
    known = Newcomer("french", tuple(first), 0.0)
    assert known.belongs(["please translate the word cat to french", second[0]]) == [True, False]


@pytest.mark.slow
def test_w7_thresholds_are_kept_and_grow_as_windows_shrink(reference: Reference, tmp_path: Path) -> None:
    first = thresholds_of(reference, PARAMS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    started = time.monotonic()
    assert thresholds_of(reference, PARAMS, tmp_path) == first == calibrate(reference, PARAMS)
    for domain, signal in (("", "novelty"), ("digits", "length"), ("digits", "reward")):
        limits = [first.of(domain, signal, size) for size in (10, 30, 100)]
        assert limits == sorted(limits, reverse=True), (domain, signal)
    assert first.of("digits", "reward", 99) == first.of("digits", "reward", 75)
    assert first.of("digits", "reward", 9) is None
    assert first.of("nowhere", "reward", 100) is None
    assert time.monotonic() - started < 30
    assert distance(reference.columns["digits", "length"], reference.columns["digits", "length"]) == 0.0


ALERT = Alert(
    1000.0, 990.0, "new_domain", "letters", "prod", "ab" * 32,
    ({"domain": "", "signal": "unlike all domains", "score": 0.2, "threshold": 0.1},), ("letters: a b",),
)  # fmt: skip


@contextlib.contextmanager
def http_server(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    heard: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", heard
        server.shutdown()


@contextlib.contextmanager
def smtp_server() -> Iterator[tuple[int, list[str]]]:
    mails: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test\r\n")
            while line := self.rfile.readline().decode().strip():
                if line.upper() == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    body = []
                    while (text := self.rfile.readline().decode()) not in (".\r\n", ""):
                        body.append(text.removeprefix("."))  # which SMTP puts before a leading dot
                    mails.append("".join(body))
                self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 ok\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], mails
        server.shutdown()


def test_w8_alerts_reach_webhook_slack_and_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as (url, heard), smtp_server() as (port, mails):
        monkeypatch.setenv("HOOK", f"{url}/hook/secret-token")
        params = AlertParams(
            webhook="env:HOOK", slack=f"{url}/slack", email_to="ops@example.com", smtp_host="127.0.0.1", smtp_port=port
        )
        told: list[Alert] = []
        tell(ALERT, [told.append, *channels(params)])
    assert told == [ALERT]
    assert heard[0] == ("/hook/secret-token", json.loads(json.dumps(ALERT.as_dict())))
    assert heard[1] == ("/slack", {"text": ALERT.sentence})
    assert "a new domain 'letters' in the traffic of channel prod" in ALERT.sentence
    headers, text = mails[0].replace("\r", "").split("\n\n", 1)
    assert {"Subject: New domain: letters on prod", "From: fst@localhost", "To: ops@example.com"} <= {
        *headers.split("\n")
    }
    assert text.replace("=\n", "") == f"{ALERT.sentence}\n\nExamples:\n\nletters: a b\n"


def test_w8_any_other_url_is_apprises(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as (url, heard):
        monkeypatch.setenv("HOOK", url.replace("http", "json") + "/notify")
        tell(ALERT, channels(AlertParams(webhook="env:HOOK", slack="env:HOOK")))
    assert [path for path, _ in heard] == ["/notify"] * 2
    assert heard[0][1]["title"] == "New domain: letters on prod"
    assert heard[0][1]["message"] == f"{ALERT.sentence}\n\nExamples:\n\nletters: a b"


def test_w8_a_dead_channel_stops_nobody_and_secrets_stay_unsaid(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    with http_server(500) as (url, heard), caplog.at_level(logging.DEBUG):
        monkeypatch.setenv("HOOK", f"{url}/planted-secret")
        params = AlertParams(webhook="env:HOOK", slack=f"http://127.0.0.1:{closed}/planted-secret", timeout_seconds=1)
        others = AlertParams(
            webhook=f"json://127.0.0.1:{closed}/planted-secret", slack=url.replace("http", "json") + "/planted-secret"
        )
        told: list[Alert] = []
        tell(ALERT, [*channels(params), *channels(others), told.append])
        assert len(heard) == 4, "each tried once more"
        for broken in ("slack://planted-secret", "nonsense://planted-secret", "planted-secret"):
            with pytest.raises(ConfigError, match=r"alerts.webhook: Apprise does not understand it") as refusal:
                channels(AlertParams(webhook=broken))
            assert "planted-secret" not in str(refusal.value)
    assert told == [ALERT]
    assert [record.levelname for record in caplog.records if record.name == "fst.monitor"] == ["WARNING"] * 8
    assert "planted-secret" not in caplog.text
    monkeypatch.delenv("HOOK")
    with pytest.raises(ConfigError, match=r"alerts.webhook: the environment has no HOOK"):
        channels(params)
    assert channels(AlertParams()) == []


@pytest.mark.slow
def test_w9_evidentlys_report_and_workspace_are_real(scene: Scene, tmp_path: Path) -> None:
    from fst.monitoring.reports import write_report

    watcher = scene.watcher()
    watcher.look(now=0.0)
    scene.send(30)
    scene.send(10, domain="", text="please translate {} to french")
    watcher.look(now=1000.0)
    reference, latest = watcher.window()
    assert reference is not None
    page = write_report(reference, latest, tmp_path / "evidently", "prod-1", "channel prod")
    html = page.read_text()
    assert len(html) > 1_000_000, "self-contained"
    assert "question" in html
    write_report(reference, latest, tmp_path / "evidently", "prod-2", "channel prod")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ui = subprocess.Popen(
        [Path(sys.executable).with_name("evidently"), "ui", "--workspace", "evidently/workspace", "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, "DO_NOT_TRACK": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until, projects = time.monotonic() + 180, []
        while not projects and time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                projects = httpx.get(f"http://127.0.0.1:{port}/api/projects", trust_env=False, timeout=5).json()
            time.sleep(0.3)
        assert [project["name"] for project in projects] == ["channel prod"], "one project, both runs in it"
    finally:
        ui.terminate()
        ui.wait(20)
