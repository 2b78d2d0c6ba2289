"""A real gateway for tests: uvicorn in a thread, the engine in its own process, releases in a local store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from peft import get_peft_model

from fst.config import ModelParams, Params, params_from_dict
from fst.models.adapter import lora_config, save_adapter
from fst.models.engines.in_process import TransformersEngine
from fst.models.policy import load_policy
from fst.models.sampler import row_bytes
from fst.monitoring.dashboard import dashboard_routes
from fst.serving.app import Gateway
from fst.serving.build import allowed, build
from fst.serving.keys import add_key
from fst.stages.places import Places
from fst.store.bundle import Bundle, write_bundle
from fst.store.releases import Releases
from fst.traffic.log import Feedback, Record, Request, read

REVERSE, SORT = "reverse the list", "sort the digits from smallest to largest"
DIGITS = [f"digits: {a} {b} {c} 7 {a}" for a in range(4) for b in range(4, 8) for c in (1, 9, 5)]
LETTERS = [f"letters: {a} {b} {c} g {a}" for a in "abcd" for b in "efgh" for c in "aij"]


@dataclass
class Place:
    """A folder with a store, a traffic log and keys."""

    root: Path

    def params(self, **sections: Any) -> Params:
        serve = {"poll_seconds": 0.1, **sections.pop("serve", {})}
        return params_from_dict(
            {
                "model": {"base": "lab", "max_new_tokens": 12},
                "store": {"url": str(self.root / "store")},
                "traffic": {"folder": str(self.root / "traffic")},
                "serve": serve,
                **sections,
            }
        )

    @property
    def releases(self) -> Releases:
        return Releases.open(self.params().store)

    def bundle(self, name: str, prompts: dict[str, list[str]], adapter: Path | None = None, **manifest: Any) -> Bundle:
        """A release of `digits` and `letters` with these prompts; another name makes another bundle."""
        questions = {"digits": DIGITS, "letters": LETTERS}
        facts = {
            "schema": 1,
            "base": {"name": "lab", "sha256": "0"},
            "start": None,
            "domains": {d: {"spec": f"lab/{d}:reverse", "data_sha256": "0", "prompt": "0"} for d in prompts},
            "run": {"domain": name},
            "metrics": {},
            "params": {"loop": {"seed_prompt": "solve the task"}},
            "candidate": None,
            "gate": None,
            **manifest,
        }
        documents = {
            "prompts.json": {
                d: {"prompts": [{"id": f"{d}-{i}", "text": t} for i, t in enumerate(texts)], "ancestry": []}
                for d, texts in prompts.items()
            },
            "evaluation.json": {},
            "reference.json": {
                d: {"rows": [{"question": q, "response": "x", "reward": 1.0, "tokens": 4} for q in questions[d]]}
                for d in prompts
            },
        }
        return write_bundle(self.root / "bundles" / name, facts, documents, adapter)

    def release(self, bundle: Bundle, channel: str = "prod") -> str:
        bundle_id = self.releases.publish(bundle.folder)
        self.releases.move(self.releases.channel(channel), bundle_id, "release", "test")
        return bundle_id

    def adapter(self, name: str, size: float = 0.0, seed: int = 0) -> Path:
        """A LoRA adapter of the lab base; size 0 changes nothing that the base says."""
        policy = load_policy(ModelParams(base="lab", max_new_tokens=8))
        torch.manual_seed(seed)
        model = get_peft_model(policy.model, lora_config(4, 8))
        with torch.no_grad():
            for key, tensor in model.named_parameters():
                if "lora_B" in key:
                    tensor.normal_(0, 1).mul_(size)
        save_adapter(model, self.root / "adapters" / name)
        return self.root / "adapters" / name

    def key(self, tenant: str, admin: bool = False) -> str:
        return add_key(self.root / "keys.json", tenant, "admin" if admin else "user")

    def log(self) -> list[Record]:
        return read(self.root / "traffic")[0]

    def requests(self) -> list[Request]:
        return [record for record in self.log() if isinstance(record, Request)]

    def feedback(self) -> list[Feedback]:
        return [record for record in self.log() if isinstance(record, Feedback)]


@dataclass
class Running:
    """A gateway that answers at `url`."""

    gateway: Gateway
    url: str
    server: uvicorn.Server
    thread: threading.Thread

    def client(self, key: str = "", **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False, **options)

    def ask(self, question: str, client: httpx.Client | None = None, **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        body = {"model": "fst", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}
        if client:
            return client.post("/v1/chat/completions", json=body, headers=headers)
        with self.client() as fresh:
            return fresh.post("/v1/chat/completions", json=body, headers=headers)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)


def endless_engine(base: str, rows: int) -> TransformersEngine:
    """An engine whose answers end at their limit only, with memory for about so many rows of 64 tokens."""
    policy = load_policy(ModelParams(base=base))
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    policy.cache_bytes = rows * row_bytes(policy.model, 64)
    return TransformersEngine(policy)


@contextlib.contextmanager
def serving(place: Place, channel: str = "prod", pages: Places | None = None, **sections: Any) -> Iterator[Running]:
    """Start a gateway and wait until it serves a release, if the channel has one; with `pages`, the page too."""
    params = place.params(**sections)
    gateway = build(params, lambda bundle_id: place.root / "fetched" / bundle_id, channel)
    routes = dashboard_routes(params, pages, gateway.state, partial(allowed, gateway)) if pages else []
    config = uvicorn.Config(
        gateway.app(routes), port=0, log_level="error", access_log=False, timeout_graceful_shutdown=20
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), 90)
    assert server.started, "the gateway did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    running = Running(gateway, f"http://127.0.0.1:{port}", server, thread)
    try:
        yield running
    finally:
        running.stop()


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.02)
