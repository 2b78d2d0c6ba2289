"""The vLLM engine: a vLLM server over its OpenAI-compatible API, token ids in and out.

Adapters go to the server under content-hashed names that are never reused (a reload under an old name may serve an old
KV cache). Before sampling, the policy's current adapter is loaded, and old ones beyond `max_loras` are unloaded. The
server is always asked which adapters it has, since it may have been restarted and lost them.

Several processes that train together use one server: rank 0 starts it and loads the adapters, the others `join` it.

The server's log-probabilities differ from the trained model's in the last digits. Rollouts carry those that the server
sampled with, and training takes them as the behaviour policy's (see fst/method/slow/weights.py).
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from peft import PeftModel

from fst.config import Params, VllmParams
from fst.errors import EngineError, ModelError
from fst.models.adapter import adapter_name, adapter_sha256, adapter_state, save_adapter
from fst.models.engines.engine import Ask, OnToken
from fst.models.engines.vllm_server import VllmServer, headers, shared_server
from fst.models.policy import model_place
from fst.models.sampler import Answer, Sampling

if TYPE_CHECKING:
    from fst.models.policy import Policy

BASE = "base"
_COMPLETIONS = "/v1/completions"
KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
if hasattr(socket, "TCP_KEEPIDLE"):
    KEEP_ALIVE += [(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60), (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)]
IN_FLIGHT = 256  # requests at once; vLLM schedules as many by default


class VllmEngine:
    """Samples with the server under `policy.model`'s adapter, read at every call because training changes it."""

    exact = False
    concurrent = True
    own_weights = True

    def __init__(self, policy: Policy, server: VllmServer, params: VllmParams) -> None:
        self._policy, self._server, self._params = policy, server, params
        self._folder = Path(tempfile.mkdtemp(prefix="fst-adapters-"))
        # vLLM closes a connection that was idle for 5 s: ours are not used again after that.
        limits = httpx.Limits(max_connections=IN_FLIGHT, keepalive_expiry=2.0)
        transport = httpx.HTTPTransport(limits=limits, socket_options=KEEP_ALIVE)
        self._http = httpx.Client(
            timeout=params.timeout_seconds, transport=transport, headers=headers(params), trust_env=False
        )
        # No time limit on answers, which may wait for their turn. If the server dies, the connection is closed; if its
        # machine is gone, TCP keep-alive probes go unanswered.
        self._patient = httpx.Timeout(params.timeout_seconds, read=None, pool=None)
        self._name = BASE
        self._used: list[str] = []  # adapters sampled with in training, the latest last
        self._kept: dict[str, Path] = {}  # adapters that are served, and their folders

    @classmethod
    def build(cls, policy: Policy, params: Params) -> VllmEngine:
        """Make the engine; the process's one server is started at the first request."""
        place, limit = model_place(params.model.base), policy.context
        server = shared_server(place, params.slow.lora_rank, params.model.dtype, limit, params.vllm)
        return cls(policy, server, params.vllm)

    @property
    def context(self) -> int | None:
        """The limit of the server at vllm.url, or of the one that will be started."""
        if not self._params.url:
            return self._server.context
        found = self._ask("GET", "/v1/models", None)["data"][0].get("max_model_len")
        return None if found is None else int(found)

    def ready(self) -> str:
        self._current()
        return self._server.url()

    def join(self, address: str) -> None:
        self._server.join(address)

    def rest(self) -> None:
        self._server.rest()

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        """Send one HTTP request for each of `requests`, up to IN_FLIGHT at once; the server batches them. Every answer
        has its own seed (see `first_seeds`), so that equal requests get different answers."""
        model, seeds = self._current(), first_seeds(plan, len(requests))

        def ask(place: int) -> list[Answer]:
            body = {
                "model": model,
                "prompt": list(requests[place]),
                "n": plan.n,
                "max_tokens": plan.max_new_tokens,
                "temperature": plan.temperature,
                "seed": seeds[place],
                "stop_token_ids": list(plan.end_ids),
                **_TOKENS,
            }
            choices = sorted(self._post(_COMPLETIONS, body)["choices"], key=lambda choice: choice["index"])
            if len(choices) != plan.n:
                raise EngineError(f"vLLM gave {len(choices)} answers to a request of {plan.n}")
            return [_answer(choice) for choice in choices]

        pool = ThreadPoolExecutor(IN_FLIGHT)
        groups = []
        try:
            for answers in pool.map(ask, range(len(requests))):
                self._policy.count_drawn(sum(len(answer.tokens) for answer in answers))
                groups.append(answers)
        finally:
            pool.shutdown(cancel_futures=True)
        return groups

    def load(self, folder: Path) -> str:
        name = adapter_name(folder)
        if name not in self._known():
            self._add(name, folder)
        self._kept[name] = folder
        return name

    def unload(self, name: str) -> None:
        self._kept.pop(name, None)
        if name in self._known():
            self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        return self._policy.decoded([self._serve(ask, i, on_token) for i, ask in enumerate(asks)])

    def close(self) -> None:
        self._http.close()
        self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- parts ------------------------------------------------------------------------------------------

    def _serve(self, ask: Ask, place: int, on_token: OnToken | None) -> Answer:
        if ask.adapter in self._kept and ask.adapter not in self._known():  # the server was restarted
            self._add(ask.adapter, self._kept[ask.adapter])
        body = {
            "model": ask.adapter or BASE,
            "prompt": list(ask.tokens),
            "max_tokens": ask.max_new_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed % 2**31,
            "stop_token_ids": list(self._policy.end_ids),
            **_TOKENS,
        }
        if on_token is None:
            return _answer(self._post(_COMPLETIONS, body)["choices"][0])
        tokens: list[int] = []
        logprobs: list[float] = []
        ends = self._policy.end_ids
        for choice in self._stream(_COMPLETIONS, {**body, "stream": True}):
            piece = choice.get("token_ids") or []
            tokens += piece
            logprobs += (choice.get("logprobs") or {}).get("token_logprobs") or [0.0] * len(piece)
            for token in piece:
                if token not in ends:
                    on_token(place, token)
        return Answer(tuple(tokens), tuple(logprobs))

    def _current(self) -> str:
        """The server's name for the policy's current weights, which are loaded into it if needed."""
        model = self._policy.model
        if not isinstance(model, PeftModel) or _is_switched_off(model):
            return BASE
        self._name = f"fst-{adapter_sha256(adapter_state(model))[:16]}"
        known = self._known()
        if self._name not in known:
            folder = self._folder / self._name
            if not folder.exists():
                save_adapter(model, folder)
            self._add(self._name, folder)
        elif self._server.joined:
            return self._name  # another process loaded it, and will unload it
        self._used = [name for name in self._used if name != self._name] + [self._name]
        while len(self._used) > max(1, self._params.max_loras - len(self._kept)):
            old = self._used.pop(0)
            if old in known:
                self._post("/v1/unload_lora_adapter", {"lora_name": old})
            shutil.rmtree(self._folder / old, ignore_errors=True)
        return self._name

    def _known(self) -> set[str]:
        """Names of the models and adapters that the server has."""
        return {model["id"] for model in self._ask("GET", "/v1/models", None)["data"]}

    def _add(self, name: str, folder: Path) -> None:
        try:
            self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.absolute())})
        except EngineError as exc:
            raise ModelError(f"{folder}: vLLM refuses this adapter ({exc}); check the base it is for") from exc

    def _post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Any) -> Any:
        url = self._server.url()
        try:
            timeout = self._patient if path == _COMPLETIONS else self._params.timeout_seconds
            answer = self._http.request(method, url + path, json=body, timeout=timeout)
        except httpx.HTTPError as exc:
            raise EngineError(f"vLLM at {url} does not answer ({type(exc).__name__}); is it running?") from exc
        if answer.status_code != 200:
            raise EngineError(f"vLLM at {url} refused {path} ({answer.status_code}): {answer.text[:300]}")
        return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else answer.text

    def _stream(self, path: str, body: Any) -> Iterator[Any]:
        url = self._server.url()
        try:
            with self._http.stream("POST", url + path, json=body, timeout=self._patient) as answer:
                if answer.status_code != 200:
                    raise EngineError(f"vLLM at {url} refused {path} ({answer.status_code})")
                for line in answer.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise EngineError(f"vLLM at {url} failed in the middle of an answer: {event['error']}")
                        yield from event.get("choices", [])
        except httpx.HTTPError as exc:
            raise EngineError(f"vLLM at {url}: the connection failed ({type(exc).__name__})") from exc


def first_seeds(plan: Sampling, requests: int) -> range:
    """Return the seed of each request, below 2**63. vLLM draws choice k of a request with seed + k, of which it uses
    only the lower 32 bits on a CPU, so the seeds of a batch are plan.n apart and start at a random place."""
    first = hash((plan.seed, requests)) % 2**62
    return range(first, first + requests * plan.n, plan.n)


_TOKENS = {"logprobs": 0, "return_token_ids": True, "skip_special_tokens": False, "include_stop_str_in_output": True}


def _answer(choice: Any) -> Answer:
    tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if len(tokens) != len(logprobs):
        raise EngineError(f"vLLM gave {len(tokens)} tokens with {len(logprobs)} log-probabilities; check its version")
    return Answer(tuple(tokens), tuple(logprobs))


def _is_switched_off(model: PeftModel) -> bool:
    return any(getattr(module, "disable_adapters", False) is True for module in model.modules())
