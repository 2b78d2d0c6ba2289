"""A real HTTP server that follows a script, one step a request, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOON = {"retry-after-ms": "1"}  # a header with which clients need not wait before they try again


@dataclass
class Step:
    """One reply of the server. `hang` seconds pass before it; `drop` closes the connection instead."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drop: bool = False


def said(content: Any = "improved prompt", usage: Any = (30, 12), finish_reason: str = "stop") -> Step:
    """A reply with this text; `usage` is (input, output) tokens, or whatever else is to stand in its place."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    reply = {"choices": [{"message": {"content": content}, "finish_reason": finish_reason}], "usage": usage}
    return Step(body=json.dumps(reply).encode(), headers={"Content-Type": "application/json"})


def refused(status: int, message: str, headers: dict[str, str] | None = None) -> Step:
    """A refusal in OpenAI's form; clients are told to try again at once where they would wait."""
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    return Step(status, body, {"Content-Type": "application/json", **(SOON if headers is None else headers)})


class ChatServer:
    """`script` is what it answers, the last step for ever; `requests` are path, key, body and time of each request."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.requests: list[dict[str, Any]] = []
        self.stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = {"path": self.path, "auth": self.headers.get("Authorization"), "body": body}
                outer.requests.append({**asked, "at": time.monotonic()})
                step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                outer.stop.wait(step.hang)
                if step.drop:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                with contextlib.suppress(OSError):  # a client that gave up
                    self.send_response(step.status)
                    for name, value in {"Content-Length": str(len(step.body)), **step.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(step.body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request["body"] for request in self.requests]

    def close(self) -> None:
        self.stop.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@contextlib.contextmanager
def serving(*script: Step) -> Iterator[ChatServer]:
    """A server that is up inside the block."""
    server = ChatServer(*script)
    try:
        yield server
    finally:
        server.close()
