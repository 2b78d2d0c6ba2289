"""The endpoint reflector against a real HTTP server that follows a script, one step a request."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from fst.errors import ConfigError, ReflectorError
from fst.models.endpoint import LARGEST_REPLY_BYTES, EndpointConfig, EndpointReflector

KEY = "sk-planted-0123456789"


@dataclass
class Step:
    """One reply of the server. `hang` seconds pass before it, `drip` between its bytes; `drop` closes instead."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drip: float = 0.0
    drop: bool = False


def said(content: str | None = "improved prompt", usage: Any = (30, 12)) -> Step:
    """A reply with this text; `usage` is (input, output) tokens, or whatever else is to stand in its place."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    reply = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": usage}
    return Step(body=json.dumps(reply).encode())


class Server:
    def __init__(self) -> None:
        self.script: list[Step] = []
        self.requests: list[dict[str, Any]] = []
        self.stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, "auth": self.headers.get("Authorization"), "body": body})
                step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                outer.stop.wait(step.hang)
                if step.drop:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                try:
                    self.answer(step)
                except OSError:
                    self.close_connection = True

            def answer(self, step: Step) -> None:
                self.send_response(step.status)
                for name, value in {"Content-Length": str(len(step.body)), **step.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if not step.drip:
                    self.wfile.write(step.body)
                    return
                for byte in step.body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    if outer.stop.wait(step.drip):
                        return

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.stop.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("FST_TEST_KEY", KEY)
    running = Server()
    yield running
    running.close()


def reflector(url: str, waits: list[float] | None = None, **changes: Any) -> EndpointReflector:
    settings = {"base_url": url, "model": "toy", "api_key_env": "FST_TEST_KEY", "timeout_seconds": 5, **changes}
    return EndpointReflector(EndpointConfig(**settings), sleep=(waits if waits is not None else []).append, jitter=half)


def half() -> float:
    return 0.5  # every back-off is then three quarters of its nominal length


def test_asks_once_and_sends_the_configured_request(server: Server) -> None:
    server.script = [said("a better prompt")]
    ask = reflector(server.url + "/", temperature=0.3, max_tokens=77)
    assert ask("what to improve?") == "a better prompt"
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "auth": f"Bearer {KEY}",
            "body": {
                "model": "toy",
                "messages": [{"role": "user", "content": "what to improve?"}],
                "temperature": 0.3,
                "max_tokens": 77,
            },
        }
    ]


def test_usage_comes_from_the_reply(server: Server) -> None:
    server.script = [said(usage=(1000, 200)), said(usage=(500, 100))]
    ask = reflector(server.url)
    ask("one")
    ask("two")
    assert ask.usage.as_dict() == {
        "calls": 2,
        "retries": 0,
        "input_tokens": 1500,
        "output_tokens": 300,
        "estimated": 0,
    }


@pytest.mark.parametrize("stated", [None, {"prompt_tokens": -1, "completion_tokens": 3}, {"prompt_tokens": "9"}, 7])
def test_usage_is_estimated_and_flagged_when_the_reply_states_none(server: Server, stated: Any) -> None:
    server.script = [said("x" * 40, stated)]
    ask = reflector(server.url)
    ask("y" * 10)
    assert (ask.usage.input_tokens, ask.usage.output_tokens, ask.usage.estimated) == (3, 10, 1)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_passing_trouble_is_retried_with_exponential_backoff(server: Server, status: int) -> None:
    server.script = [Step(status), Step(status), Step(status), said()]
    waits: list[float] = []
    ask = reflector(server.url, waits, backoff_seconds=2.0)
    assert ask("q") == "improved prompt"
    assert waits == [1.5, 3.0, 6.0]
    assert (ask.usage.calls, ask.usage.retries, len(server.requests)) == (1, 3, 4)
    assert ask.usage.input_tokens == 30  # refused requests bill nothing


def test_jitter_spreads_waits_between_half_and_all_of_the_backoff(server: Server) -> None:
    server.script = [Step(503), Step(503), said()]
    waits: list[float] = []
    draws = iter([0.0, 1.0])
    config = EndpointConfig(server.url, "toy", backoff_seconds=4.0, api_key_env="FST_TEST_KEY")
    EndpointReflector(config, sleep=waits.append, jitter=lambda: next(draws))("q")
    assert waits == [2.0, 8.0]


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7.0), ("0.1", 0.75), ("9999", 60.0), ("soon", 0.75), ("nan", 0.75), ("-3", 0.75), ("", 0.75)],
)
def test_retry_after_is_honoured_up_to_a_cap(server: Server, header: str, wait: float) -> None:
    server.script = [Step(429, headers={"Retry-After": header}), said()]
    waits: list[float] = []
    reflector(server.url, waits)("q")
    assert waits == [wait]


def test_retry_after_may_be_a_date(server: Server) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    server.script = [Step(503, headers={"Retry-After": later}), said()]
    waits: list[float] = []
    reflector(server.url, waits)("q")
    assert 17 < waits[0] <= 20


def test_backoff_is_capped(server: Server) -> None:
    server.script = [Step(500)]
    waits: list[float] = []
    with pytest.raises(ReflectorError):
        reflector(server.url, waits, backoff_seconds=20.0)("q")
    assert waits == [15.0, 30.0, 60.0, 60.0, 60.0]


def test_gives_up_after_its_retries_and_says_what_happened(server: Server) -> None:
    server.script = [Step(503, b"overloaded")]
    ask = reflector(server.url, max_retries=2)
    with pytest.raises(ReflectorError, match=r"failed 3 times.*HTTP 503: overloaded.*raise max_retries"):
        ask("q")
    assert (len(server.requests), ask.usage.retries) == (3, 2)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (301, "final address in base_url"),
        (400, "check model, temperature and max_tokens"),
        (401, r"environment variable FST_TEST_KEY to a valid key \(it is set now\)"),
        (403, "FST_TEST_KEY may not use model 'toy'"),
        (404, "check base_url"),
        (413, "too long"),
        (422, "check model"),
    ],
)
def test_refusals_are_not_retried_and_come_with_a_remedy(server: Server, status: int, remedy: str) -> None:
    server.script = [Step(status, b'{"error": "because"}')]
    with pytest.raises(ReflectorError, match=f"(?i){remedy}") as caught:
        reflector(server.url)("q")
    assert f"HTTP {status}" in str(caught.value)
    assert "because" in str(caught.value)
    assert len(server.requests) == 1


def test_without_a_key_no_header_is_sent_and_a_401_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FST_TEST_KEY")
    server.script = [said(), Step(401)]
    ask = reflector(server.url)
    ask("q")
    assert server.requests[0]["auth"] is None
    with pytest.raises(ReflectorError, match=r"FST_TEST_KEY .*\(it is not set now\)"):
        ask("q")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"choices": [',
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [5]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}',
        b"[" * 100_000,
    ],
)
def test_replies_without_text_are_retried_then_fail(server: Server, body: bytes) -> None:
    server.script = [Step(body=body), said("recovered")]
    assert reflector(server.url)("q") == "recovered"
    server.script, server.requests = [Step(body=body)], []
    with pytest.raises(ReflectorError, match=r"the reply (is not JSON|has no choices|has no text)"):
        reflector(server.url, max_retries=1)("q")
    assert len(server.requests) == 2


def test_a_billed_reply_without_text_is_counted(server: Server) -> None:
    server.script = [said(None, usage=(30, 1024)), said(usage=(30, 12))]
    ask = reflector(server.url)
    ask("q")
    assert (ask.usage.input_tokens, ask.usage.output_tokens, ask.usage.estimated) == (60, 1036, 0)


def test_empty_text_is_an_answer(server: Server) -> None:
    server.script = [said("")]
    assert reflector(server.url)("q") == ""


def test_a_silent_server_times_out_and_is_retried(server: Server) -> None:
    server.script = [Step(hang=30), said()]
    ask = reflector(server.url, timeout_seconds=0.2)
    assert ask("q") == "improved prompt"
    assert ask.usage.retries == 1


def test_a_dripping_server_times_out_as_a_whole(server: Server) -> None:
    server.script = [Step(body=b" " * 1000, drip=0.05)]
    started = time.monotonic()
    with pytest.raises(ReflectorError, match=r"no complete reply within 0\.3 s"):
        reflector(server.url, timeout_seconds=0.3, max_retries=0)("q")
    assert time.monotonic() - started < 3


def test_an_endless_reply_is_cut_off(server: Server) -> None:
    server.script = [Step(body=b" " * (LARGEST_REPLY_BYTES + 1))]
    with pytest.raises(ReflectorError, match="larger than"):
        reflector(server.url, max_retries=0)("q")


def test_a_dropped_connection_is_retried(server: Server) -> None:
    server.script = [Step(drop=True), Step(drop=True), said()]
    ask = reflector(server.url)
    assert ask("q") == "improved prompt"
    assert ask.usage.retries == 2


def test_a_corrupt_encoding_is_retried(server: Server) -> None:
    server.script = [Step(body=b"not gzip", headers={"Content-Encoding": "gzip"}), said()]
    assert reflector(server.url)("q") == "improved prompt"


def test_nobody_listening_ends_in_our_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    waits: list[float] = []
    with pytest.raises(ReflectorError, match="ConnectError"):
        reflector(f"http://127.0.0.1:{port}/v1", waits)("q")
    assert len(waits) == 5


def test_every_error_of_the_library_is_one_we_handle() -> None:
    """RequestError and InvalidURL are translated; the rest cannot happen on the calls we make."""
    unreachable = {"HTTPError", "HTTPStatusError", "CookieConflict", "StreamError", "StreamConsumed", "StreamClosed"}
    unreachable |= {"ResponseNotRead", "RequestNotRead"}
    errors = {n: e for n, e in vars(httpx).items() if isinstance(e, type) and issubclass(e, Exception)}
    handled = {n for n, e in errors.items() if issubclass(e, httpx.RequestError | httpx.InvalidURL)}
    assert set(errors) - handled == unreachable


@pytest.mark.parametrize("step", [Step(401), Step(400), Step(429), Step(500), Step(drop=True), Step(body=b"{}")])
def test_the_key_is_nowhere_to_be_read(server: Server, step: Step, caplog: pytest.LogCaptureFixture) -> None:
    step.body = step.body or f'{{"error": "Incorrect API key provided: {KEY}"}}'.encode()
    server.script = [step]
    ask = reflector(server.url, max_retries=1)
    with caplog.at_level(logging.DEBUG), pytest.raises(ReflectorError) as caught:
        ask("q")
    assert server.requests[0]["auth"] == f"Bearer {KEY}"
    trace = "".join(traceback.format_exception(caught.value))
    for text in (repr(ask), repr(ask.config), repr(vars(ask)), json.dumps(ask.usage.as_dict()), trace, caplog.text):
        assert KEY not in text


@pytest.mark.parametrize("key", [f"{KEY}\r\nX-Evil: 1", f"{KEY} {KEY}", f"{KEY}é"])
def test_an_impossible_key_is_refused_without_being_printed(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("FST_TEST_KEY", key)
    with pytest.raises(ReflectorError, match="FST_TEST_KEY holds characters") as caught:
        reflector("http://127.0.0.1:9/v1")("q")
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_the_key_is_read_at_every_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.script = [said()]
    ask = reflector(server.url)
    ask("q")
    monkeypatch.setenv("FST_TEST_KEY", "rotated\n")
    ask("q")
    assert [r["auth"] for r in server.requests] == [f"Bearer {KEY}", "Bearer rotated"]


def test_threads_share_one_account(server: Server) -> None:
    server.script = [said(usage=(3, 2))]
    ask = reflector(server.url)
    threads = [threading.Thread(target=ask, args=("q",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ask.usage.calls, ask.usage.input_tokens, ask.usage.output_tokens) == (8, 24, 16)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://host:port/v1"}, "base_url"),
        ({"base_url": f"https://me:{KEY}"}, "base_url"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "base_url"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url"),
        ({"api_key_env": KEY}, "api_key_env"),
        ({"model": ""}, "model"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"max_retries": -1}, "max_retries"),
        ({"backoff_seconds": -0.1}, "backoff_seconds"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_bad_setting_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^endpoint\.{key}: ") as caught:
        EndpointConfig(**{"base_url": "http://host/v1", "model": "toy", **changes})
    assert KEY not in str(caught.value)
