"""Where a model runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fst.config import ModelParams, params_from_dict
from fst.errors import ConfigError
from fst.models.device import device_of
from fst.models.policy import load_policy
from fst.models.sampler import Answer, Sampling


def test_auto_is_this_processes_gpu_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of("auto") == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of("auto") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_of("cuda") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"^model\.device: torch sees no 'cuda'"):
        device_of("cuda")
    with pytest.raises(ConfigError, match=r"model\.device: .*'cuda:1' is no device.*CUDA_VISIBLE_DEVICES"):
        params_from_dict({"model": {"device": "cuda:1"}})


def test_a_policy_is_loaded_onto_its_device(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = ModelParams(base=str(tiny_model_dir), max_new_tokens=8, dtype="bfloat16", attention="eager", cache_gb=0.5)
    policy = load_policy(params)
    assert (policy.model.dtype, policy.model.device.type) == (torch.bfloat16, "cpu")
    assert policy.model.config._attn_implementation == "eager"
    assert policy.cache_bytes == 2**29
    plans: list[Sampling] = []
    monkeypatch.setattr(policy.engine, "sample", lambda _, plan: plans.append(plan) or [[Answer((7,), (0.0,))]])
    policy.answer_ids([[3, 5]], 1, seed=0)
    assert (plans[0].cache_bytes, plans[0].max_new_tokens) == (2**29, 8)
