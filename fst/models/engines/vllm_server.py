"""A vLLM server beside this process: started on loopback, with adapters loadable at run time, and stopped with this
process. vLLM lives in an environment of its own (`make vllm`) because it pins other versions than the rest of the
project; nothing here imports it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from fst.config import VllmParams
from fst.errors import EngineError

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_DO_NOT_TRACK": "1"}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM takes for --max-lora-rank
_GRACE_SECONDS = 15.0


class VllmServer:
    """A server that answers at `url`. `base` is a directory or hub id, `rank` the highest rank of its adapters. With
    `params.url` the server is not ours: nothing is started or stopped."""

    def __init__(self, base: str, rank: int, dtype: str, params: VllmParams) -> None:
        self.base, self._rank, self._dtype, self._params = base, rank, dtype, params
        self._process: subprocess.Popen[bytes] | None = None
        self._url = params.url.rstrip("/")
        self._log: Path | None = None

    @property
    def pid(self) -> int | None:
        """Process id of a server that was started here, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def url(self) -> str:
        """The server's address. Starts it when it is not running, and waits until it is healthy. Raises EngineError."""
        if self._params.url or self.pid is not None:
            return self._url
        self._start()
        return self._url

    def close(self) -> None:
        """Stop a server that was started here, its worker processes included."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
                break

    def _start(self) -> None:
        python = Path(os.environ.get("FST_VLLM_PYTHON", self._params.python))
        if not python.exists():
            raise EngineError(
                f"vllm.python: there is no {python}; make it with `make vllm`, or name a server by vllm.url"
            )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        rank = next((r for r in RANKS if r >= self._rank), RANKS[-1])
        command = [
            *(str(python.absolute()), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.base, "--served-model-name", "base", "--dtype", self._dtype),
            *("--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"),
            *("--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(self._params.max_loras)),
            *self._params.arguments,
        ]
        if not _has_gpu():
            command.append("--enforce-eager")  # compiling takes longer than it saves
        self._log = Path(tempfile.mkdtemp(prefix="fst-vllm-")) / "server.log"
        settings = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1", **QUIET}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**settings, **os.environ, **QUIET},
                cwd=self._log.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self.close)
        self._url = f"http://127.0.0.1:{port}"
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + self._params.start_seconds
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self._url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > until:
                why = "ended" if ended else f"was not ready after {self._params.start_seconds:g} s"
                self.close()
                raise EngineError(f"the vLLM server {why}; the end of {self._log}:\n{self._tail()}")
            time.sleep(0.2)

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log else ""
        return "\n".join(text.splitlines()[-12:])


@functools.cache
def shared_server(base: str, rank: int, dtype: str, params: VllmParams) -> VllmServer:
    """One server per process and parameters: starting one takes half a minute."""
    return VllmServer(base, rank, dtype, params)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
