"""The endpoint reflector against a real HTTP server that follows a script, one step a request.

Invariants: E1 what is sent is what params.yaml says; E2 what may pass is tried again, as long as it was told to;
E3 everything else fails at once and names the key to mend; E4 an option that the server refuses by its name is left
out from then on; E5 tokens and cost are counted; E6 the API key is nowhere to be read.
"""

from __future__ import annotations

import json
import logging
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from fst.config import ReflectorParams, params_from_dict
from fst.errors import ConfigError, ReflectorError
from fst.models.endpoint import MAX_NEW_TOKENS, EndpointReflector
from support.chat_server import SOON, ChatServer, Step, refused, said, serving

KEY = "sk-planted-0123456789"
NO_NEW_LIMIT = "Unrecognized request argument supplied: max_completion_tokens"
NO_OLD_LIMIT = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
NO_TEMPERATURE = "Unsupported value: 'temperature' does not support 0.3 with this model."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("FST_TEST_KEY", KEY)
    with serving(said()) as running:
        yield running


def reflector(url: str, **changes: Any) -> EndpointReflector:
    settings = {"endpoint_model": "toy", "api_key_env": "FST_TEST_KEY", "timeout_seconds": 5, **changes}
    return EndpointReflector(
        params_from_dict({"reflector": {"kind": "endpoint", "base_url": url, **settings}}).reflector
    )


def test_e1_asks_once_and_sends_the_configured_request(server: ChatServer) -> None:
    server.script = [said("a better prompt")]
    ask = reflector(server.url + "/", temperature=0.3, max_new_tokens=77)
    assert ask("what to improve?") == "a better prompt"
    (request,) = server.requests
    assert (request["path"], request["auth"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert request["body"] == {
        "model": "toy",
        "messages": [{"role": "user", "content": "what to improve?"}],
        "temperature": 0.3,
        "max_completion_tokens": 77,
    }


def test_e1_the_output_limit_has_room_for_thinking_where_none_is_set(server: ChatServer) -> None:
    reflector(server.url)("q")
    assert server.bodies[0]["max_completion_tokens"] == MAX_NEW_TOKENS == 4096


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_e2_passing_trouble_is_tried_again(server: ChatServer, status: int) -> None:
    server.script = [refused(status, "busy"), refused(status, "busy"), said()]
    ask = reflector(server.url)
    assert ask("q") == "improved prompt"
    assert (ask.usage.calls, ask.usage.retries, len(server.requests)) == (1, 2, 3)
    assert ask.usage.input_tokens == 30  # refused requests bill nothing


def test_e2_the_time_that_the_server_asks_for_is_waited(server: ChatServer) -> None:
    server.script = [refused(429, "slow down", {"Retry-After": "1"}), said()]
    assert reflector(server.url)("q") == "improved prompt"
    first, second = (request["at"] for request in server.requests)
    assert 1.0 <= second - first < 5.0


def test_e2_gives_up_after_its_retries_and_says_what_happened(server: ChatServer) -> None:
    server.script = [refused(503, "overloaded")]
    ask = reflector(server.url, max_retries=2)
    with pytest.raises(ReflectorError, match=r"HTTP 503: .*overloaded.*reflector\.max_retries"):
        ask("q")
    assert (len(server.requests), ask.usage.retries) == (3, 2)


def test_e2_a_silent_server_is_given_up_after_its_time(server: ChatServer) -> None:
    server.script = [Step(hang=30), said()]
    ask = reflector(server.url, timeout_seconds=0.2, max_retries=1)
    assert ask("q") == "improved prompt"
    assert ask.usage.retries == 1
    server.script = [Step(hang=30)]
    with pytest.raises(ReflectorError, match=r"no reply within 0\.2 s \(reflector\.timeout_seconds\)"):
        reflector(server.url, timeout_seconds=0.2, max_retries=0)("q")


@pytest.mark.parametrize("broken", [Step(drop=True), Step(body=b"not gzip", headers={"Content-Encoding": "gzip"})])
def test_e2_a_broken_reply_is_tried_again(server: ChatServer, broken: Step) -> None:
    server.script = [broken, said()]
    ask = reflector(server.url)
    assert ask("q") == "improved prompt"
    assert ask.usage.retries == 1


def test_e3_nobody_listening_ends_in_our_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ReflectorError, match=r"Connection refused.*reflector\.base_url is up"):
        reflector(f"http://127.0.0.1:{port}/v1", max_retries=0)("q")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, r"reflector\.endpoint_model, reflector\.temperature and reflector\.max_new_tokens"),
        (401, r"environment variable FST_TEST_KEY \(reflector\.api_key_env\) to a valid key; it is set now"),
        (403, r"FST_TEST_KEY \(reflector\.api_key_env\) may not use reflector\.endpoint_model 'toy'"),
        (404, r"reflector\.base_url \(http.*/v1\) and reflector\.endpoint_model \('toy'\)"),
        (413, r"lower fast\.minibatch"),
        (422, r"reflector\.endpoint_model"),
    ],
)
def test_e3_refusals_are_not_repeated_and_come_with_a_remedy(server: ChatServer, status: int, remedy: str) -> None:
    server.script = [refused(status, "because")]
    with pytest.raises(ReflectorError, match=remedy) as caught:
        reflector(server.url)("q")
    assert f"HTTP {status}: " in str(caught.value)
    assert "because" in str(caught.value)
    assert len(server.requests) == 1


def test_e3_without_a_key_none_is_sent_and_a_401_says_so(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FST_TEST_KEY")
    server.script = [said(), refused(401, "no key")]
    ask = reflector(server.url)
    ask("q")
    assert server.requests[0]["auth"] is None
    with pytest.raises(ReflectorError, match=r"FST_TEST_KEY .* it is not set now"):
        ask("q")


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
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
        b"[" * 100_000,
    ],
    ids=range(11),
)
def test_e3_garbage_costs_one_call_and_one_proposal(server: ChatServer, body: bytes, kind: str) -> None:
    server.script = [Step(body=body, headers={"Content-Type": kind})]
    with pytest.raises(ReflectorError, match=r"did not send a chat completion. Check reflector\.base_url"):
        reflector(server.url)("q")
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [None, "", [{"type": "text"}]])
def test_e3_a_reply_that_thinking_used_up_names_the_limit(server: ChatServer, content: Any) -> None:
    server.script = [said(content, (30, 1024), "length")]
    ask = reflector(server.url, max_new_tokens=1024)
    with pytest.raises(ReflectorError, match=r"cut off at 1024 tokens.*raise reflector\.max_new_tokens"):
        ask("q")
    assert (ask.usage.input_tokens, ask.usage.output_tokens, ask.usage.cut) == (30, 1024, 1), "it is billed"


def test_e3_a_reply_without_text_says_how_it_ended(server: ChatServer) -> None:
    server.script = [said(None, finish_reason="content_filter")]
    with pytest.raises(ReflectorError, match="sent no text; it ended with 'content_filter'"):
        reflector(server.url)("q")


def test_e3_empty_text_is_an_answer_and_so_is_one_that_was_cut_off(server: ChatServer) -> None:
    server.script = [said(""), said("half a pro", finish_reason="length")]
    ask = reflector(server.url)
    assert [ask("q"), ask("q")] == ["", "half a pro"]
    assert ask.usage.cut == 1


@pytest.mark.parametrize("status", [400, 422])
def test_e4_a_server_with_the_older_name_of_the_limit_is_asked_by_it_from_then_on(
    server: ChatServer, status: int
) -> None:
    server.script = [refused(status, NO_NEW_LIMIT), said()]
    ask = reflector(server.url, max_new_tokens=7)
    ask("one")
    ask("two")
    limits = [{key: value for key, value in body.items() if "tokens" in key} for body in server.bodies]
    assert limits == [{"max_completion_tokens": 7}, {"max_tokens": 7}, {"max_tokens": 7}]
    assert ask.usage.calls == 2


def test_e4_a_temperature_that_is_refused_is_left_out_from_then_on(server: ChatServer) -> None:
    server.script = [refused(400, NO_TEMPERATURE), said()]
    ask = reflector(server.url, temperature=0.3)
    ask("one")
    ask("two")
    assert [body.get("temperature") for body in server.bodies] == [0.3, None, None]
    assert all("max_completion_tokens" in body for body in server.bodies)


def test_e4_both_may_be_refused(server: ChatServer) -> None:
    server.script = [refused(400, NO_TEMPERATURE), refused(400, NO_NEW_LIMIT), said()]
    assert reflector(server.url)("q") == "improved prompt"
    assert set(server.bodies[-1]) == {"model", "messages", "max_tokens"}


def test_e4_what_is_wrong_either_way_is_said_and_not_remembered(server: ChatServer) -> None:
    """A limit that is too large is refused by its name as well."""
    too_large = "max_completion_tokens is too large: 50000"
    server.script = [refused(400, too_large), refused(400, NO_OLD_LIMIT)]
    ask = reflector(server.url, max_new_tokens=50_000)
    with pytest.raises(ReflectorError, match=f"Use 'max_completion_tokens' instead.*before that: .*{too_large}"):
        ask("q")
    server.script, server.requests = [said()], []
    assert ask("q") == "improved prompt"
    assert "max_completion_tokens" in server.bodies[0]


def test_e5_usage_and_cost_come_from_the_replies(server: ChatServer) -> None:
    server.script = [said(usage=(1000, 200)), said(usage=(500, 100))]
    ask = reflector(server.url, input_price=2.0, output_price=10)
    ask("one")
    ask("two")
    assert ask.usage.as_dict() == {
        "calls": 2,
        "retries": 0,
        "input_tokens": 1500,
        "output_tokens": 300,
        "cost": pytest.approx((1500 * 2 + 300 * 10) / 1e6),
        "cut": 0,
        "estimated": 0,
    }


@pytest.mark.parametrize("stated", [None, {"prompt_tokens": -1, "completion_tokens": 3}, {"prompt_tokens": "9"}, 7])
def test_e5_usage_is_estimated_and_flagged_where_the_reply_states_none(server: ChatServer, stated: Any) -> None:
    server.script = [said("x" * 40, stated)]
    ask = reflector(server.url)
    ask("y" * 10)
    assert (ask.usage.input_tokens, ask.usage.output_tokens, ask.usage.estimated) == (3, 10, 1)


@pytest.mark.parametrize(
    "step",
    [
        *(refused(status, f"Incorrect API key provided: {KEY}") for status in (400, 401, 429, 500)),
        Step(401, f"bad key {KEY}".encode(), SOON),
        Step(drop=True),
        Step(body=f'{{"error": "{KEY}"}}'.encode()),
    ],
    ids=range(7),
)
def test_e6_the_key_is_nowhere_to_be_read(server: ChatServer, step: Step, caplog: pytest.LogCaptureFixture) -> None:
    server.script = [step]
    ask = reflector(server.url, max_retries=1)
    with caplog.at_level(logging.DEBUG), pytest.raises(ReflectorError) as caught:
        ask("q")
    assert server.requests[0]["auth"] == f"Bearer {KEY}"
    trace = "".join(traceback.format_exception(caught.value))
    for text in (repr(ask), repr(vars(ask)), json.dumps(ask.usage.as_dict()), trace, caplog.text):
        assert KEY not in text


@pytest.mark.parametrize("key", [f"{KEY}\r\nX-Evil: 1", f"{KEY} {KEY}", f"{KEY}é"])
def test_e6_an_impossible_key_is_refused_without_being_printed(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("FST_TEST_KEY", key)
    with pytest.raises(ReflectorError, match=r"FST_TEST_KEY \(reflector\.api_key_env\) has characters") as caught:
        reflector("http://127.0.0.1:9/v1")("q")
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_e6_the_key_is_read_at_every_call(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = reflector(server.url)
    ask("q")
    monkeypatch.setenv("FST_TEST_KEY", "rotated\n")
    ask("q")
    assert [r["auth"] for r in server.requests] == [f"Bearer {KEY}", "Bearer rotated"]


def test_a_check_is_one_call_with_one_retry_at_most(server: ChatServer) -> None:
    ask = reflector(server.url)
    ask.check()
    assert (ask.usage.calls, ask.usage.output_tokens) == (1, 12)
    server.script, server.requests = [refused(500, "down")], []
    with pytest.raises(ReflectorError, match="HTTP 500"):
        ask.check()
    assert len(server.requests) == 2
    server.script, server.requests = [refused(401, "who are you?")], []
    with pytest.raises(ReflectorError, match="HTTP 401"):
        ask.check()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://host:port/v1"}, "base_url"),
        ({"base_url": "http://[host/v1"}, "base_url"),
        ({"base_url": f"https://me:{KEY}"}, "base_url"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "base_url"),
        ({"base_url": f"https://host/v1?key={KEY}"}, "base_url"),
        ({"base_url": f"https://host/v1#{KEY}"}, "base_url"),
        ({"api_key_env": KEY}, "api_key_env"),
        ({"endpoint_model": ""}, "endpoint_model"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"max_retries": -1}, "max_retries"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"input_price": -1}, "input_price"),
        ({"output_price": -0.1}, "output_price"),
    ],
)
def test_a_bad_setting_is_refused_by_its_key_and_no_secret_is_repeated(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^reflector\.{key}: ") as caught:
        reflector("http://host/v1", **changes)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_policy_that_reflects_needs_no_model_by_name() -> None:
    assert ReflectorParams().endpoint_model == ""
