"""What a model takes, from its configuration alone, against the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from fst.config import ModelParams
from fst.models.adapter import lora_config
from fst.models.memory import footprint, saved_bytes
from fst.models.policy import load_policy


def test_the_footprint_is_the_models(tiny_model_dir: Path) -> None:
    params = ModelParams(base=str(tiny_model_dir), max_new_tokens=8)
    found = footprint(params, 4)
    policy = load_policy(params)
    assert found.parameters == sum(p.numel() for p in policy.model.parameters())
    model = get_peft_model(policy.model, lora_config(4, 8))
    assert found.adapter == sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_token = (saved_bytes(model, 96) - saved_bytes(model, 32)) / 64  # on real tensors, with the real kernel
    assert found.activation_bytes == pytest.approx(per_token, rel=0.02)
    cache = policy.model(input_ids=torch.zeros((1, 10), dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found.cache_bytes * 10 == held


def test_checkpointing_saves_less_and_half_precision_half(tiny_model_dir: Path) -> None:
    params = ModelParams(base=str(tiny_model_dir), max_new_tokens=8)
    plain, checkpointed = footprint(params, 4), footprint(params, 4, checkpointing=True)
    assert checkpointed.activation_bytes < plain.activation_bytes / 4
    half = footprint(params.replace(dtype="bfloat16"), 4)
    assert half.cache_bytes == plain.cache_bytes // 2
    assert half.activation_bytes < plain.activation_bytes
