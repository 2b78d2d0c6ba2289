"""How a vLLM server is started, shared and put to sleep, on a stand-in that tells what it was asked: vLLM's build for
the CPU cannot sleep. What a real vLLM answers is in test_vllm.py.

W1 a server's context is vllm.context, at most the model's, and vllm.arguments have the last word; W2 a server on a GPU
sleeps when told, and wakes before it is asked or given anything; W3 a server without a GPU, with `vllm.sleep: false`,
or of another process is never put to sleep; W4 an engine that has joined another's server starts none, and leaves
loading and stopping to the other; W5 no two answers of a batch have the same noise, and a batch with another seed has
other noise; W6 processes on several machines are told to name a server, and a launcher's variables do not reach it; W7
a server ends with the process that started it, however that ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model

from fst.config import VllmParams, params_from_dict
from fst.errors import EngineError
from fst.models.adapter import lora_config
from fst.models.engines import vllm_server
from fst.models.engines.registry import load_engine, load_with_engine
from fst.models.engines.vllm import VllmEngine, first_seeds
from fst.models.engines.vllm_server import VllmServer
from fst.models.policy import Policy
from fst.models.sampler import Sampling
from support import fake_vllm

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., VllmServer]


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """What the stand-in was told so far."""
    fake_vllm.install(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.setenv("FAKE_VLLM_SAID", str(tmp_path / "said.jsonl"))
    monkeypatch.delenv("FST_VLLM_PYTHON", raising=False)
    return lambda: [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]


@pytest.fixture
def start(said: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes servers, not started yet; `gpu` says what this machine has."""
    made = []

    def server(gpu: bool = True, limit: int | None = 512, **params: Any) -> VllmServer:
        monkeypatch.setattr(vllm_server, "_has_gpu", lambda: gpu)
        made.append(VllmServer("base", 4, "float32", limit, VllmParams(python=sys.executable, **params)))
        return made[-1]

    yield server
    for one in made:
        one.close()


def paths(said: list[dict[str, Any]]) -> list[str]:
    return [line["path"] for line in said if "path" in line]


@pytest.mark.parametrize(
    ("limit", "params", "context", "argument"),
    [
        (512, {}, 512, "512"),
        (None, {}, 4096, "4096"),
        (40_960, {"context": 100}, 100, "100"),
        (40_960, {"arguments": ("--max-model-len", "2048")}, 2048, "2048"),
        (40_960, {"arguments": ("--max_model_len=8K", "--x")}, 8192, "8192"),
        (40_960, {"arguments": ("--max-model-len", "auto")}, None, "auto"),
    ],
)
def test_w1_the_context(limit: int | None, params: dict[str, Any], context: int | None, argument: str) -> None:
    server = VllmServer("base", 4, "float32", limit, VllmParams(**params))
    assert server.context == context
    command = server.command(Path("python"), 1)
    words = [word.replace("_", "-") for part in command for word in part.split("=")]
    last = len(words) - 1 - words[::-1].index("--max-model-len")
    assert words[last + 1].replace("8K", "8192") == argument


def test_w1_of_a_server_that_runs_already_it_is_asked(policy: Policy, start: Start, monkeypatch: Any) -> None:
    monkeypatch.setenv("FAKE_VLLM_CONTEXT", "777")
    there = VllmParams(url=start().url())
    engine = VllmEngine(policy, VllmServer("base", 4, "float32", 512, there), there)
    assert engine.context == 777
    engine.close()


def adapted(policy: Policy, value: float) -> Policy:
    """The policy with an adapter of that value everywhere."""
    if not hasattr(policy.model, "peft_config"):
        policy.model = get_peft_model(policy.model, lora_config(4, 8))
    with torch.no_grad():
        for name, tensor in policy.model.named_parameters():
            if "lora_" in name:
                tensor.fill_(value)
    return policy


PLAN = Sampling(2, 4, 1.0, (2,), 0, 0, 2**30)


def test_w2_it_sleeps_when_told_and_wakes_before_anything_else(policy: Policy, start: Start, said: Any) -> None:
    server = start(gpu=True, max_loras=1)
    engine = VllmEngine(adapted(policy, 0.1), server, server.params)
    engine.rest()
    assert server.pid is None, "nothing to put to sleep, so nothing is started for it"
    engine.sample([[3, 4]], PLAN)
    engine.rest()
    engine.rest()
    adapted(policy, 0.2)
    engine.sample([[3, 4]], PLAN)
    first = said()[0]
    assert "--enable-sleep-mode" in first["arguments"]
    assert "--enforce-eager" not in first["arguments"]
    load, answer = "/v1/load_lora_adapter", "/v1/completions"
    sleep = "/sleep?level=1&mode=wait"
    assert paths(said()) == [load, answer, sleep, "/wake_up", load, "/v1/unload_lora_adapter", answer]
    engine.rest()
    assert engine.ready() == server.url()
    assert paths(said())[-2:] == [sleep, "/wake_up"]
    engine.close()


def test_w2_a_server_that_is_started_again_is_awake(start: Start, said: Any) -> None:
    server = start(gpu=True)
    server.url()
    server.rest()
    server.close()
    server.url()
    assert paths(said()) == ["/sleep?level=1&mode=wait"]


@pytest.mark.parametrize(("gpu", "sleep"), [(False, True), (True, False)])
def test_w3_it_is_left_awake(gpu: bool, sleep: bool, start: Start, said: Any) -> None:
    server = start(gpu=gpu, sleep=sleep)
    server.url()
    server.rest()
    server.url()
    assert not paths(said())
    assert "--enable-sleep-mode" not in said()[0]["arguments"]
    assert "VLLM_SERVER_DEV_MODE" not in said()[0]["environment"]


def test_w3_w4_a_server_is_put_to_sleep_and_stopped_by_its_own_process(
    policy: Policy, new_policy: Callable[[], Policy], start: Start, said: Any
) -> None:
    own, other = start(), start()
    first = VllmEngine(adapted(policy, 0.1), own, own.params)
    second = VllmEngine(adapted(new_policy(), 0.1), other, other.params)
    address = first.ready()
    for engine in (first, second):
        engine.join(address)
    second.sample([[3, 4]], PLAN)
    second.rest()
    second.close()
    assert other.pid is None
    assert paths(said()) == ["/v1/load_lora_adapter", "/v1/completions"], "loaded once, neither unloaded nor asleep"
    assert [line["model"] for line in said() if "model" in line] == [first._name]
    assert own.pid is not None
    assert len([line for line in said() if "arguments" in line]) == 1
    first.close()


def test_w3_a_process_that_only_answers_starts_one_that_cannot_sleep(tiny_model_dir: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(vllm_server, "_has_gpu", lambda: True)
    params = params_from_dict({"model": {"base": str(tiny_model_dir), "engine": "vllm"}})
    for engine, sleeps in ((load_engine(params), False), (load_with_engine(params).engine, True)):
        assert isinstance(engine, VllmEngine)
        assert ("--enable-sleep-mode" in engine._server.command(Path("python"), 1)) is sleeps


def test_w3_a_server_that_refuses_says_what_to_do(start: Start, said: Any, monkeypatch: Any) -> None:
    server = start(gpu=False)
    server.url()
    monkeypatch.setattr(vllm_server, "_has_gpu", lambda: True)
    with pytest.raises(EngineError, match=r"refused /sleep.*\(404\); vllm\.sleep: false does without it"):
        server.rest()


@given(seed=st.integers(0, 2**60), requests=st.integers(1, 600), n=st.integers(1, 16))
def test_w5_every_answer_has_its_own_noise(seed: int, requests: int, n: int) -> None:
    def firsts(of: int) -> range:
        return first_seeds(Sampling(n, 8, 1.0, (2,), 0, of, 2**30), requests)

    mine = firsts(seed)
    assert mine == firsts(seed)
    assert len({(first + k) % 2**32 for first in mine for k in range(n)}) == requests * n
    assert max(mine) + n < 2**63
    assert abs(mine[0] - firsts(seed + 1)[0]) > requests * n, "the next seed draws elsewhere"


def test_w6_a_launchers_variables_stay_with_it(start: Start, said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1", "ACCELERATE_USE_CPU": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    start().url()
    assert not set(launched) & set(said()[0]["environment"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(EngineError, match=r"^vllm\.url: the processes run on several machines"):
        start().url()


def test_w7_it_ends_with_a_process_that_was_killed(said: Any) -> None:
    script = (
        "import sys\n"
        "from fst.config import VllmParams\n"
        "from fst.models.engines.vllm_server import VllmServer\n"
        "server = VllmServer('base', 4, 'float32', 512, VllmParams(python=sys.executable))\n"
        "server.url()\n"
        "print(server.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    server = psutil.Process(int(starter.stdout.readline()))
    assert server.is_running()
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    server.wait(timeout=60)
