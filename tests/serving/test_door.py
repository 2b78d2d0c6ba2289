"""S16, pages in a browser. Without keys the gateway answers to loopback's names and to those it is told, and to no
request of another origin; with keys to every name unless it is told some, and an unknown key still gets its 401."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fst.serving.door import Door
from fst.serving.keys import Keys, add_key


async def behind(request: Request) -> PlainTextResponse:
    known = request.headers.get("authorization") != "Bearer wrong"
    return PlainTextResponse("in", 200 if known else 401)


INNER = Starlette(routes=[Route("/{path:path}", behind, methods=["GET", "POST"])])


def knock(door: Door, method: str = "POST", **headers: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://gateway") as client:
            return await client.request(method, "/v1/feedback", headers=headers)

    return asyncio.run(asked())


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


LOOPBACK = ["localhost", "localhost:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "LOCALHOST:1"]
FOREIGN = [
    "evil.example",
    "evil.example:8080",
    "10.0.0.3",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "",
    "[x",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_without_keys_it_answers_to_loopbacks_names(host: str) -> None:
    assert knock(Door(INNER, Keys(None), ()), Host=host).text == "in"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", FOREIGN)
def test_without_keys_it_answers_to_no_other_name(host: str, method: str) -> None:
    answer = knock(Door(INNER, Keys(None), ("gateway.internal",)), method, Host=host)
    assert (answer.status_code, code(answer)) == (403, "forbidden_host")
    assert "serve.allowed_hosts" in answer.json()["error"]["message"]


def test_a_name_that_it_is_told() -> None:
    door = Door(INNER, Keys(None), ("Gateway.internal",))
    assert knock(door, Host="gateway.internal:8080").text == "in"
    assert knock(door, Host="x.gateway.internal").status_code == 403


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost:3000", "http://127.0.0.1:8080", "null", "", "http://[x", "file://"],
)
def test_a_page_of_another_origin_is_refused(origin: str) -> None:
    answer = knock(Door(INNER, Keys(None), ()), Host="localhost:8080", Origin=origin)
    assert (answer.status_code, code(answer)) == (403, "forbidden_origin")


def test_its_own_page_is_not() -> None:
    for origin in ("http://localhost:8080", "https://LOCALHOST:8080"):  # TLS may end in front of it
        assert knock(Door(INNER, Keys(None), ()), Host="localhost:8080", Origin=origin).text == "in"


def test_with_keys_every_name_unless_it_is_told_some(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "alice", "user")
    keys, bearer = Keys(tmp_path / "keys.json"), f"Bearer {key}"
    assert knock(Door(INNER, keys, ()), Host="anything.example", Authorization=bearer).text == "in"
    told = Door(INNER, keys, ("api.example",))
    assert knock(told, Host="api.example", Authorization=bearer).text == "in"
    assert code(knock(told, Host="evil.example", Authorization=bearer)) == "forbidden_host"
    other = {"Host": "api.example", "Origin": "https://evil.example"}
    assert code(knock(told, **other, Authorization=bearer)) == "forbidden_origin"
    assert knock(told, Host="evil.example", Authorization="Bearer wrong").status_code == 401, "not hidden"
