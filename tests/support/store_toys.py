"""Toys for the tests of the store: small bundles, and a proxy before an S3 server that misbehaves on demand."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from safetensors.numpy import save_file

from fst.store.bundle import Bundle, write_bundle

SECRET = "planted-aws-secret-0123456789"


def toy_adapter(folder: Path, kilobytes: int = 4, value: float = 0.5) -> Path:
    """A folder with the two files of an adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 4}\n', encoding="utf-8")
    tensors = {"layer.lora_A.weight": np.full((kilobytes, 256), value, np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def toy_bundle(folder: Path, reward: float = 0.5, adapter: Path | None = None, **manifest: Any) -> Bundle:
    """A bundle of one domain; another reward makes another bundle."""
    facts: dict[str, Any] = {
        "schema": 1,
        "base": {"name": "lab", "sha256": "b" * 64},
        "start": None,
        "domains": {"letters": {"spec": "lab/letters", "data_sha256": "d" * 64, "prompt": "p1"}},
        "run": None,
        "metrics": {"letters": {"reward": reward}},
        "candidate": None,
        "gate": None,
    }
    documents = {
        "prompts.json": {"letters": {"prompts": [{"id": "p1", "text": "sort, then reverse ✓"}], "ancestry": []}},
        "evaluation.json": {"letters": {"split": "test", "reward": reward, "problems": {"a": reward}}},
    }
    return write_bundle(folder, {**facts, **manifest}, documents, adapter)


@dataclass
class Fault:
    """What the proxy does to requests of a method whose path contains a text, at most so many times.

    cut: the answer's body ends early, against its Content-Length. shorten: it ends early and the length agrees.
    change: its first byte is another. lose: the request is done and no answer comes. hang: the request waits for
    `Proxy.go_on` before it is done. An integer: this status is the answer, and the request is not done.
    """

    kind: Literal["cut", "shorten", "change", "lose", "hang"] | int
    method: str = "GET"
    path: str = ""
    times: int = 1_000_000


@dataclass
class Proxy:
    """Before an S3 endpoint. Requests pass one at a time, as the real S3 orders writes of one key; moto does not."""

    target: str
    faults: list[Fault] = field(default_factory=list)
    strip: tuple[str, ...] = ()  # request headers that get lost, in lower case
    reject: tuple[str, ...] = ()  # request headers that are answered with 501
    seen: list[str] = field(default_factory=list)  # "METHOD path" of every request
    headers: list[dict[str, str]] = field(default_factory=list)  # those of every request, names in lower case
    answered: list[int] = field(default_factory=list)  # the server's statuses, in the order of its answers
    hanging: threading.Event = field(default_factory=threading.Event)  # set when a request hangs
    go_on: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def fault(self, method: str, path: str) -> str | int | None:
        for fault in self.faults:
            if fault.method == method and fault.path in path and fault.times:
                fault.times -= 1
                return fault.kind
        return None


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def pass_on(self) -> None:
            proxy.seen.append(f"{self.command} {self.path}")
            proxy.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            unknown = any(name in self.headers for name in proxy.reject)
            fault = 501 if unknown else proxy.fault(self.command, self.path)
            if fault == "hang":
                proxy.hanging.set()
                proxy.go_on.wait()
            if isinstance(fault, int):
                self.reply(fault, [], b"", None)
            else:
                with one_at_a_time:
                    status, headers, content = self.ask(body)
                    proxy.answered.append(status)
                self.reply(status, headers, content, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            address = urlsplit(proxy.target)
            with contextlib.closing(http.client.HTTPConnection(address.hostname or "", address.port)) as connection:
                lost = (*proxy.strip, "expect", "connection")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in lost}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()

        def reply(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None) -> None:
            if fault == "lose":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if fault == "change" and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            if fault == "shorten":
                body = body[: len(body) // 2]
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
            self.close_connection = self.close_connection or fault == "cut"

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients that are killed break their connections."""


@contextlib.contextmanager
def proxy_before(target: str) -> Iterator[Proxy]:
    proxy = Proxy(target)
    with _Server(("127.0.0.1", 0), _handler(proxy)) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.go_on.set()
            server.shutdown()
            thread.join()
