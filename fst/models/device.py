"""Decides where and how a model runs: device, number format and attention."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedModel

from fst.config import ModelParams
from fst.errors import ConfigError
from fst.models.attention import GROUPED


def device_of(name: str) -> torch.device:
    """The device that `model.device` names. `auto` is this process's own GPU (by LOCAL_RANK), else Apple's, else the
    CPU. Raises ConfigError for a device that torch does not see."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}[name]:
        raise ConfigError(f"model.device: torch sees no {name!r} on this machine; say auto or cpu")
    return torch.device(name)


def free_cache() -> None:
    """Release the GPU memory that torch has cached but does not use, for other processes on that GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def loading(model: ModelParams) -> dict[str, Any]:
    """The options of `from_pretrained` for these parameters; transformers picks the attention if it is `auto`."""
    chosen = {} if model.attention == "auto" else {"attn_implementation": model.attention}
    return {"dtype": getattr(torch, model.dtype), **chosen}


def group_heads(model: PreTrainedModel, params: ModelParams) -> None:
    """Switch the model to attention that does not copy shared keys (fst/models/attention.py), if `model.attention` is
    `auto` and transformers chose sdpa."""
    if params.attention == "auto" and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED)
