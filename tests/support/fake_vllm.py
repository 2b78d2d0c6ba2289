"""The part of vLLM's API server that puts it to sleep, which a build for the CPU cannot do.

It is started as vLLM is, by an interpreter that finds it under vLLM's name. The file in FAKE_VLLM_SAID gets a line for
the command line and the environment, then one for each request. While it sleeps it answers nothing and loads nothing.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


def install(folder: Path) -> None:
    """Make a package `vllm` in a folder that is on PYTHONPATH."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")


def say(**what: Any) -> None:
    with Path(os.environ["FAKE_VLLM_SAID"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


class Handler(BaseHTTPRequestHandler):
    models: ClassVar[dict[str, int]] = {"base": int(os.environ.get("FAKE_VLLM_CONTEXT", "0"))}
    asleep = False

    def answer(self, status: int, body: Any = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": name, "max_model_len": n} for name, n in self.models.items()]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or "{}")
        say(path=self.path, **{key: body[key] for key in ("lora_name", "model", "seed", "n") if key in body})
        if "sleep" in self.path or "wake" in self.path:
            if "VLLM_SERVER_DEV_MODE" not in os.environ:
                return self.answer(404)
            Handler.asleep = "sleep" in self.path
            return self.answer(200)
        if Handler.asleep:
            return self.answer(500, "asleep")
        if "load_lora" in self.path:
            self.models[body["lora_name"]] = 0
            if "unload" in self.path:
                del self.models[body["lora_name"]]
            return self.answer(200)
        choice = {"token_ids": [5, 2], "logprobs": {"token_logprobs": [-1.0, -0.5]}}
        return self.answer(200, {"choices": [{**choice, "index": k} for k in range(body.get("n", 1))]})

    def log_message(self, *_: Any) -> None:
        """Says nothing: requests are in the file."""


if __name__ == "__main__":
    say(arguments=sys.argv[1:], environment=dict(os.environ))
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
