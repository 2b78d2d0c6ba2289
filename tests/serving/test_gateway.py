"""The gateway, on a real server with a real engine. G1 the official client works unchanged; G2 a request's domain is
said or found, and its prompt is put in front; G3 a new release is swapped in without a request dropped, and the old
adapter is unloaded; G4 a killed engine costs a pause, and every request a whole answer or a clean error; G5 feedback
is scored by the verifier and logged, also after a restart; G6 a canary is promoted or rolled back on reward; G7 a
shadow answers for the log alone; G8 too much is told to come back; G9 what is in hand at a shutdown is finished; G10
figures and health; G11 the frontier's prompts may be dealt; G12 a broken release leaves the old one in force; G13 a
client that hangs up takes its request out of the engine; G14 a page of another site gets nothing; G15 a request is a
span below the client's, with its figures, and feedback one below it, without a text of either."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fst.bench.tokens import streamed
from fst.serving.live import Trial, share_of, worse
from fst.serving.metrics import Metrics
from support.collecting import Collected, collected
from support.gateway_toys import REVERSE, SORT, Place, Running, serving, wait_until

pytestmark = pytest.mark.slow
__all__ = ["collected"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("gateway"))
    first = place.bundle("first", {"digits": [REVERSE, SORT], "letters": [REVERSE]}, place.adapter("zero"))
    place.release(first)
    return place


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Running]:
    with serving(place) as running:
        yield running


def said(answer: object) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])  # type: ignore[attr-defined]


def test_g1_the_official_client_works_unchanged(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
    assert [m.id for m in client.models.list()] == ["fst", "fst/digits", "fst/letters"]
    messages = [{"role": "user", "content": "digits: 3 1 4 2 5"}]
    whole = client.chat.completions.create(model="fst", messages=messages, temperature=0)  # type: ignore[call-overload]
    assert whole.choices[0].message.content == "5 2 4 1 3"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.completion_tokens == 6
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="fst", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "5 2 4 1 3"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    plain = client.completions.create(model="fst/letters", prompt="letters: a b c d e", temperature=0)
    assert plain.choices[0].text == "e d c b a"
    several = client.chat.completions.create(model="fst", messages=messages, n=3, seed=5)  # type: ignore[call-overload]
    assert len(several.choices) == 3
    cut = client.chat.completions.create(model="fst", messages=messages, temperature=0, max_tokens=2)  # type: ignore[call-overload]
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("5 2", "length")
    stopped = client.chat.completions.create(model="fst", messages=messages, temperature=0, stop=[" 2"])  # type: ignore[call-overload]
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("5", "stop")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=messages)  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="fst", messages=messages, temperature=7)  # type: ignore[call-overload]


def test_g1_what_is_not_served_is_refused_and_top_p_is_kept_to(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any")
    messages = [{"role": "user", "content": "digits: 3 1 4 2 5"}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="fst", messages=messages, response_format={"type": "json_object"})  # type: ignore[call-overload]
    assert (refused.value.param, refused.value.code) == ("response_format", "unsupported_field")
    narrow = [
        client.chat.completions.create(model="fst", messages=messages, temperature=2, top_p=0, seed=seed)  # type: ignore[call-overload]
        for seed in range(4)
    ]
    assert {answer.choices[0].message.content for answer in narrow} == {"5 2 4 1 3"}, "the likeliest token each time"


def test_g10_streams_are_timed_token_by_token(running: Running) -> None:
    body = {"model": "fst/digits", "messages": [{"role": "user", "content": "digits: 3 1 4 2 5"}], "temperature": 0}
    port = int(running.url.rpartition(":")[2])
    found = asyncio.run(streamed(port, "/v1/chat/completions", [body], clients=2, seconds=0.5))
    assert len(found.first) >= 2
    assert len(found.next) == 4 * len(found.first), "five digits an answer"
    assert min(found.first + found.next) >= 0
    assert "time to the first token p50 " in found.says
    with pytest.raises(ValueError, match=r"no stream of events: http/1\.1 404"):
        asyncio.run(streamed(port, "/v1/chat/completions", [{**body, "model": "x"}], 1, 0.5))


def test_g14_a_page_in_a_browser_gets_nothing_without_keys(running: Running) -> None:
    """Every route, since the gateway has none that another site needs."""
    with running.client() as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            for path in ("/v1/chat/completions", "/v1/feedback", "/admin/rollback"):
                assert client.post(path, json={}, headers=headers).status_code == 403
            for path in ("/v1/models", "/admin/state", "/metrics", "/healthz"):
                assert client.get(path, headers=headers).status_code == 403
        assert client.get("/healthz", headers={"Origin": running.url}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_g15_a_request_is_a_span_and_feedback_is_below_it(running: Running, collected: Collected, stream: bool) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = running.ask("digits: 3 1 4 2 5", seed=7, stream=stream, headers={"traceparent": parent})
    response = answer.headers["X-FST-Response-Id"]
    with running.client() as client:
        client.post("/v1/feedback", json={"id": response, "answer": "5 2 4 1 3", "comment": "well done"})
    asked, told = collected.spans()
    assert (asked.name, told.name, asked.kind.name) == ("chat fst/digits", "feedback", "SERVER")
    assert f"{asked.context.trace_id:032x}-{asked.parent.span_id:016x}" == parent[3:-3]
    assert (told.context.trace_id, told.parent.span_id) == (asked.context.trace_id, asked.context.span_id)
    release = running.gateway.live.production
    assert release is not None
    ids = asked.attributes["gen_ai.usage.input_tokens"]
    assert dict(asked.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "fst", "gen_ai.request.model": "fst/digits",
        "gen_ai.response.model": release.id[:12], "gen_ai.response.id": response,
        "gen_ai.response.finish_reasons": ("stop",), "gen_ai.usage.input_tokens": ids, "gen_ai.usage.output_tokens": 6,
        "gen_ai.request.max_tokens": 12, "gen_ai.request.temperature": 0.0, "gen_ai.request.top_p": 1.0,
        "gen_ai.request.stream": stream, "fst.domain": "digits", "fst.release": release.id,
        "fst.variant": "production", "fst.prompt": "digits-0", "fst.routed": "router",
        "fst.novelty": asked.attributes["fst.novelty"],
    }  # fmt: skip
    assert dict(told.attributes) == {
        "gen_ai.response.id": response, "gen_ai.evaluation.name": "feedback.verifier",
        "gen_ai.evaluation.score.value": 1.0, "fst.domain": "digits", "fst.release": release.id,
        "fst.feedback.has_answer": True, "fst.feedback.has_comment": True,
    }  # fmt: skip
    figures = collected.metrics()
    assert figures["gen_ai.client.token.usage"] == [ids, 6]
    assert figures["fst.feedback.reward"] == [1.0]
    (first,), (each,) = (figures[f"gen_ai.server.{name}"] for name in ("time_to_first_token", "time_per_output_token"))
    (whole,) = figures["gen_ai.server.request.duration"]
    assert 0 < first < whole
    (point,) = collected.points("gen_ai.server.time_to_first_token")
    assert point.explicit_bounds[:2] == (0.001, 0.005), "the bounds of the conventions, in seconds"
    assert whole == pytest.approx(first + 5 * each, abs=0.1)


def test_g15_a_refusal_is_a_span_with_its_status(running: Running, collected: Collected) -> None:
    assert running.ask("digits: 3 1 4 2 5", tools=[{"type": "function"}]).status_code == 400
    (refused,) = collected.spans()
    assert (refused.name, refused.status.is_ok, refused.attributes["error.type"]) == ("chat", False, "400")
    (point,) = collected.points("gen_ai.server.request.duration")
    assert dict(point.attributes)["error.type"] == "400"


def test_g2_the_domain_is_said_or_found_and_its_prompt_put_in_front(running: Running, place: Place) -> None:
    by_router = running.ask("digits: 3 1 4 2 5")
    by_model = running.ask("digits: 3 1 4 2 5", model="fst/letters")
    by_header = running.ask("digits: 3 1 4 2 5", headers={"X-FST-Domain": "letters"})
    unknown = running.ask("what is the capital of France?")
    assert [r.headers["X-FST-Domain"] for r in (by_router, by_model, by_header, unknown)] == [
        "digits", "letters", "letters", "",
    ]  # fmt: skip
    assert running.ask("what?", headers={"X-FST-Domain": "nothing"}).status_code == 404
    logged = {request.id: request for request in place.requests()}
    mine = [logged[r.headers["X-FST-Response-Id"]] for r in (by_router, by_model, by_header, unknown)]
    assert [r.routed for r in mine] == ["router", "model", "header", "unknown"]
    assert [r.prompt for r in mine] == ["digits-0", "letters-0", "letters-0", ""]
    assert mine[3].novelty > mine[0].novelty
    sorting = running.ask("digits: 3 1 4 2 5", messages=[
        {"role": "system", "content": "ignored"}, {"role": "user", "content": "digits: 3 1 4 2 5"},
    ])  # fmt: skip
    assert sorting.status_code == 200


def test_g3_a_release_is_swapped_in_without_a_request_dropped(running: Running, place: Place) -> None:
    stop, seen = threading.Event(), []

    def hammer() -> None:
        with running.client() as client:
            while not stop.is_set():
                answer = running.ask("digits: 3 1 4 2 5", client)
                seen.append((answer.status_code, answer.headers.get("X-FST-Release"), answer.text))

    before = running.gateway.live.production
    assert before is not None
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(hammer) for _ in range(8)]
        time.sleep(1)
        second = place.release(
            place.bundle("second", {"digits": [SORT], "letters": [REVERSE]}, place.adapter("other", 1e-3))
        )
        wait_until(lambda: running.gateway.live.production.id == second, 20)  # type: ignore[union-attr]
        time.sleep(1)
        stop.set()
        for job in jobs:
            job.result()
    assert {status for status, _, _ in seen} == {200}
    assert {release for _, release, _ in seen} == {before.id, second}
    by_release = {release: json.loads(text)["choices"][0]["message"]["content"] for _, release, text in seen}
    assert by_release == {before.id: "5 2 4 1 3", second: "1 2 3 4 5"}
    wait_until(lambda: list(running.gateway.answering.worker._folders) == [running.gateway.live.production.adapter], 10)  # type: ignore[union-attr]


def test_g4_a_killed_engine_costs_a_pause(running: Running) -> None:
    worker = running.gateway.answering.worker
    answers: list[tuple[int, str]] = []

    def ask(_: int) -> None:
        with running.client() as client:
            answer = running.ask("digits: 3 1 4 2 5", client)
            answers.append((answer.status_code, answer.text))

    restarts = worker.restarts
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(ask, i) for i in range(60)]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        for job in jobs:
            job.result()
    assert worker.restarts == restarts + 1
    assert len(answers) == 60
    for status, text in answers:
        body = json.loads(text)
        if status == 200:
            assert body["choices"][0]["message"]["content"] == "1 2 3 4 5", "with the adapter of the release again"
        else:
            assert status == 503
            assert body["error"]["code"] == "engine_unavailable"
    assert running.ask("digits: 3 1 4 2 5").status_code == 200


def test_g5_feedback_is_scored_logged_and_survives_a_restart(running: Running, place: Place) -> None:
    answer = running.ask("letters: a b c d e")
    response = answer.headers["X-FST-Response-Id"]
    with running.client() as client:
        right = client.post("/v1/feedback", json={"id": response, "answer": "e d c b a", "comment": "fine"})
        assert right.json() == {"id": response, "reward": 1.0, "scored_by": "verifier"}
        wrong = client.post("/v1/feedback", json={"id": response, "answer": "a b c d e"})
        assert wrong.json()["reward"] == 0.0
        given = client.post("/v1/feedback", json={"id": response, "reward": 0.25})
        assert given.json() == {"id": response, "reward": 0.25, "scored_by": "client"}
        for bad in ({"id": response}, {"id": response, "reward": 2}, {"id": response, "reward": "x"}, {"id": 7}):
            assert client.post("/v1/feedback", json=bad).status_code == 400
    mine = [f for f in place.feedback() if f.id == response]
    assert [(f.reward, f.answer, f.scored_by) for f in mine] == [
        (1.0, "e d c b a", "verifier"), (0.0, "a b c d e", "verifier"), (0.25, None, "client"),
    ]  # fmt: skip
    with serving(place) as again, again.client() as client:
        late = client.post("/v1/feedback", json={"id": response, "answer": "e d c b a"})
        assert (late.status_code, late.json()["reward"]) == (200, 1.0)


@pytest.mark.parametrize(("reward", "ends"), [(1.0, "promoted"), (0.0, "rolled back")])
def test_g6_a_canary_is_promoted_or_rolled_back_on_reward(tmp_path: Path, reward: float, ends: str) -> None:
    place = Place(tmp_path)
    first = place.release(place.bundle("first", {"digits": [REVERSE]}))
    with serving(place, serve={"canary_percent": 50, "canary_scored": 12}) as running, running.client() as client:
        second = place.release(place.bundle("second", {"digits": [SORT]}))
        wait_until(lambda: running.gateway.live.trial, 10)
        releases = []
        for _ in range(200):
            answer = running.ask("digits: 3 1 4 2 5", client)
            releases.append(answer.headers["X-FST-Release"])
            given = reward if releases[-1] == second else 0.9
            client.post("/v1/feedback", json={"id": answer.headers["X-FST-Response-Id"], "reward": given})
            if running.gateway.live.trial is None:
                break
            time.sleep(0.01)
        assert 2 <= releases[:20].count(second) <= 18  # by chance elsewhere once in 25,000 times
        live = running.gateway.live
        assert live.production is not None
        assert live.production.id == (second if ends == "promoted" else first)
        wait_until(lambda: place.releases.channel("prod").bundle == live.production.id, 5)  # type: ignore[union-attr]
        last = place.releases.channel("prod").history[-1]
        if ends == "rolled back":
            assert last.action == "rollback"
            assert last.reason.startswith("canary: reward 0.000 on 1")
        variants = {request.variant for request in place.requests()}
        assert variants == {"production", "canary"}


def test_g6_a_request_belongs_to_the_same_share_always() -> None:
    shares = [share_of(f"request-{i}") for i in range(10_000)]
    assert shares == [share_of(f"request-{i}") for i in range(10_000)]
    assert sum(share < 0.2 for share in shares) == pytest.approx(2000, abs=120)
    assert sum(share < 0.5 for share in shares) == pytest.approx(5000, abs=150)


def test_g6_worse_means_below_by_more_than_chance() -> None:
    assert worse([0.0] * 20, [1.0] * 20)
    assert not worse([1.0] * 20, [1.0] * 20)
    assert not worse([1.0] * 20, [0.0] * 20)
    assert not worse([1, 0, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 1, 1, 0, 1])
    trial = Trial(None, [0.5] * 9, [1.0] * 50)  # type: ignore[arg-type]
    assert trial.verdict(10) is None
    assert Trial(None, [0.5] * 10, [1.0]).verdict(10) == "promote", "nothing to compare with"  # type: ignore[arg-type]


def test_g7_g11_a_shadow_answers_for_the_log_alone_and_prompts_may_be_dealt(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.release(place.bundle("first", {"digits": [REVERSE, SORT]}))
    shadow = place.release(place.bundle("shadow", {"digits": [SORT]}), "next")
    with serving(place, serve={"shadow": "next", "prompts": "dealt"}) as running, running.client() as client:
        texts = [said(running.ask("digits: 3 1 4 2 5", client)) for _ in range(4)]
        assert texts == ["5 2 4 1 3", "1 2 3 4 5", "5 2 4 1 3", "1 2 3 4 5"]
        wait_until(lambda: len(place.requests()) == 8, 10)
        shadows = [r for r in place.requests() if r.variant == "shadow"]
        assert [(r.release, r.response) for r in shadows] == [(shadow, "1 2 3 4 5")] * 4
        assert {r.id.removesuffix("-shadow") for r in shadows} == {
            r.id for r in place.requests() if r.variant == "production"
        }


def test_g8_g9_too_much_is_told_to_come_back_and_a_shutdown_finishes_what_is_in_hand(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.release(place.bundle("first", {"digits": [REVERSE]}))
    with serving(place, serve={"requests_per_minute": 5, "max_waiting": 2}) as running:
        with running.client() as client:
            statuses = [running.ask("digits: 3 1 4 2 5", client) for _ in range(7)]
        assert [r.status_code for r in statuses] == [200] * 5 + [429] * 2
        assert 1 <= int(statuses[-1].headers["Retry-After"]) <= 12
        running.gateway.allowance.per_minute = 0  # type: ignore[attr-defined]
        running.gateway.in_hand = 2
        full = running.ask("digits: 3 1 4 2 5")
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        running.gateway.in_hand = 0
        worker = running.gateway.answering.worker
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)  # the engine hangs
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(running.ask, "digits: 3 1 4 2 5")
            wait_until(lambda: running.gateway.in_hand == 1, 10)
            running.server.should_exit = True
            time.sleep(0.5)
            os.kill(worker.pid, signal.SIGCONT)
            answer = slow.result(timeout=30)
        assert answer.status_code == 200
        running.thread.join(30)
        assert not running.thread.is_alive()


def test_g8_an_engine_that_hangs_is_a_time_out(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.release(place.bundle("first", {"digits": [REVERSE]}))
    with serving(place, serve={"timeout_seconds": 0.5}) as running:
        assert running.ask("digits: 3 1 4 2 5").status_code == 200
        worker = running.gateway.answering.worker
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        late = running.ask("digits: 3 1 4 2 5")
        streamed = running.ask("digits: 3 1 4 2 5", stream=True)
        os.kill(worker.pid, signal.SIGCONT)
        assert late.status_code == 504
        assert "no token within 0.5 s" in late.json()["error"]["message"]
        assert '"error"' in streamed.text
        assert running.gateway.in_hand == 0
        assert running.ask("digits: 3 1 4 2 5").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_g13_a_client_that_hangs_up_takes_its_request_along(tmp_path: Path, stream: bool) -> None:
    place = Place(tmp_path)
    place.release(place.bundle("first", {"digits": [REVERSE]}))
    with serving(place) as running:
        worker = running.gateway.answering.worker
        assert running.ask("digits: 3 1 4 2 5").status_code == 200
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)  # nothing is answered meanwhile
        body = {"model": "fst", "messages": [{"role": "user", "content": "digits: 9 8 7 1 2"}], "n": 2}
        with pytest.raises(httpx.ReadTimeout), running.client() as client:
            client.post("/v1/chat/completions", json={**body, "stream": stream}, timeout=0.5)
        wait_until(lambda: running.gateway.in_hand == 0 and not worker._jobs, 10)  # type: ignore[union-attr]
        os.kill(worker.pid, signal.SIGCONT)
        assert running.ask("digits: 3 1 4 2 5").json()["choices"][0]["message"]["content"] == "5 2 4 1 3"
        assert running.gateway.live.production.in_hand == 0  # type: ignore[union-attr]
        assert worker.restarts == 0
    assert [request.question for request in place.requests()] == ["digits: 3 1 4 2 5"] * 2


def test_g10_figures_and_health(running: Running) -> None:
    running.ask("digits: 3 1 4 2 5")
    with running.client() as client:
        assert client.get("/healthz").json() == {"status": "ok", "problem": ""}
        page = client.get("/metrics").text
        state = client.get("/admin/state").json()
    assert 'fst_requests_total{domain="digits",status="200",variant="production"}' in page
    assert "fst_request_seconds_bucket" in page
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert {family.name for family in Metrics().registry.collect()} <= set(families)
    first = families["fst_first_token_seconds"]
    assert next(sample.value for sample in first.samples if sample.name.endswith("_count")) > 0
    assert "fst_engine_restarts 1.0" in page
    assert state["production"] == running.gateway.live.production.id  # type: ignore[union-attr]
    assert state["domains"] == ["digits", "letters"]


def test_g12_a_channel_without_a_release_is_said_and_picked_up_when_it_comes(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serving(place) as running:
        none = running.ask("digits: 3 1 4 2 5")
        assert (none.status_code, none.json()["error"]["code"]) == (503, "no_release")
        with running.client() as client:
            assert client.get("/healthz").status_code == 503
        first = place.release(place.bundle("first", {"digits": [REVERSE]}))
        wait_until(lambda: running.gateway.live.production, 10)
        assert running.ask("digits: 3 1 4 2 5").headers["X-FST-Release"] == first
