"""A vLLM server beside this process: started on loopback, with adapters loadable at run time, and stopped with this
process. vLLM is installed in a separate environment (`make vllm`) because it pins other versions than the rest of the
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
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import httpx

from fst.config import VllmParams
from fst.errors import EngineError
from fst.lifeline import WATCHED
from fst.models.device import free_cache

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_DO_NOT_TRACK": "1"}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts for --max-lora-rank
BATCHED = 4096  # tokens that a server on a CPU runs at once, or more where a prompt may be longer
_GRACE_SECONDS = 15.0
_THOUSANDS = {"k": 1000, "K": 1024}
# Variables that a launcher sets for the processes that train together; the server must not see them.
_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
_LAUNCHERS_OWN = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_")


class VllmServer:
    """A server that answers at `url()`. `base` is a directory or hub id, `rank` the highest rank of its adapters,
    `limit` the model's own context limit in tokens. With `params.url`, or after `join`, the server belongs to someone
    else, and nothing is started or stopped."""

    def __init__(self, base: str, rank: int, dtype: str, limit: int | None, params: VllmParams) -> None:
        self.base = str(Path(base).absolute()) if Path(base).is_dir() else base
        self._rank, self._dtype, self.params = rank, dtype, params
        self._process: subprocess.Popen[bytes] | None = None
        self._elsewhere, self._url = params.url.rstrip("/"), ""
        self._log: Path | None = None
        self._lock = threading.Lock()
        self._asleep = False
        self._limit = limit

    @property
    def pid(self) -> int | None:
        """Process id of a server that was started here, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def context(self) -> int | None:
        """The most tokens that a request and its answer may have together on a server started here: --max-model-len in
        vllm.arguments, or else vllm.context, but at most the model's own limit. None if the arguments leave it to
        vLLM."""
        length = told(self.params.arguments, "--max-model-len")
        if length is None:
            return min(self.params.context, self._limit or self.params.context)
        digits, factor = (length[:-1], _THOUSANDS[length[-1]]) if length[-1:] in _THOUSANDS else (length, 1)
        return int(digits) * factor if digits.isdigit() else None

    @property
    def joined(self) -> bool:
        """Whether another process looks after the server."""
        return bool(self._elsewhere) and not self.params.url

    def join(self, url: str) -> None:
        """Use a server that another process has started; one that runs here already stays."""
        if self.pid is None and not self.params.url:
            self._elsewhere = url

    def url(self) -> str:
        """Return the server's address. Starts the server if it is not running, wakes it if it sleeps, and waits until
        it answers. Raises EngineError if it does not."""
        if self._elsewhere:
            return self._elsewhere
        with self._lock:
            if self.pid is None:
                self._start()
            elif self._asleep:
                free_cache()
                self._tell("/wake_up")
                self._asleep = False
            return self._url

    def rest(self) -> None:
        """Make a server that was started here on a GPU free its memory until the next call of `url`: weights and
        adapters move to the CPU's memory, the KV cache is dropped. Raises EngineError if the server refuses."""
        with self._lock:
            if self._sleeps and self.pid is not None and not self._asleep:
                self._tell("/sleep?level=1&mode=wait")
                self._asleep = True

    @property
    def _sleeps(self) -> bool:
        return self.params.sleep and not self._elsewhere and _has_gpu()

    def _tell(self, what: str) -> None:
        try:
            post = httpx.post(
                self._url + what, timeout=self.params.start_seconds, headers=headers(self.params), trust_env=False
            )
        except httpx.HTTPError as exc:
            raise EngineError(f"vLLM at {self._url} does not answer {what} ({type(exc).__name__})") from exc
        if post.status_code != 200:
            raise EngineError(
                f"vLLM at {self._url} refused {what} ({post.status_code}); vllm.sleep: false does without it"
            )

    def close(self) -> None:
        """Stop a server that was started here, including its worker processes."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
                break
        if process.stdin:
            process.stdin.close()

    def _start(self) -> None:
        python = Path(os.environ.get("FST_VLLM_PYTHON", self.params.python))
        if not python.exists():
            raise EngineError(
                f"vllm.python: there is no {python}; make it with `make vllm`, or name a server by vllm.url"
            )
        world = os.environ.get("WORLD_SIZE")
        if os.environ.get("LOCAL_WORLD_SIZE", world) != world:
            raise EngineError(
                "vllm.url: the processes run on several machines; start a server that all of them reach, and name it"
            )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._log = Path(tempfile.mkdtemp(prefix="fst-vllm-")) / "server.log"
        settings = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        if self._sleeps:
            settings["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep and /wake_up
        own = {k: v for k, v in os.environ.items() if k not in _LAUNCHERS and not k.startswith(_LAUNCHERS_OWN)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*WATCHED, *self.command(python, port)],
                env={**settings, **own, **QUIET},
                cwd=self._log.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        atexit.register(self.close)
        self._asleep = False
        self._url = f"http://127.0.0.1:{port}"
        self._wait()

    def command(self, python: Path, port: int) -> list[str]:
        """The command line that starts the server."""
        rank = next((r for r in RANKS if r >= self._rank), RANKS[-1])
        command = [
            *(str(python.absolute()), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.base, "--served-model-name", "base", "--dtype", self._dtype),
            *("--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"),
            *("--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(self.params.max_loras)),
        ]
        if self.context is not None:
            command += ["--max-model-len", str(self.context)]
        if not _has_gpu():
            command.append("--enforce-eager")  # compiling takes longer than it saves
            # A prompt that is read in two parts ends the server where its answer has a seed: torch's generators for the
            # CPU do not know the offset that vLLM sets back.
            command.append("--no-enable-chunked-prefill")
            if self.context is not None:
                command += ["--max-num-batched-tokens", str(max(self.context, BATCHED))]
        if self._sleeps:
            command.append("--enable-sleep-mode")
        return [*command, *self.params.arguments]

    def _wait(self) -> None:
        until = time.monotonic() + self.params.start_seconds
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self._url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > until:
                why = "ended" if ended else f"was not ready after {self.params.start_seconds:g} s"
                self.close()
                raise EngineError(f"the vLLM server {why}; the end of {self._log}:\n{self._tail()}")
            time.sleep(0.2)

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log else ""
        return "\n".join(text.splitlines()[-12:])


@functools.cache
def shared_server(base: str, rank: int, dtype: str, limit: int | None, params: VllmParams) -> VllmServer:
    """One server per process and parameters: starting one takes half a minute."""
    return VllmServer(base, rank, dtype, limit, params)


def headers(params: VllmParams) -> dict[str, str]:
    """The authorization header of every request to the server; empty if there is no key."""
    key = os.environ.get(params.api_key_env, "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def told(arguments: Sequence[str], name: str) -> str | None:
    """The value of a command-line argument, the last one if it is repeated; None if it is missing."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    found = [value for word, value in pairwise(words) if word.replace("_", "-") == name]
    return found[-1] if found else None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
