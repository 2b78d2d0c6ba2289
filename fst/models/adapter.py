"""The LoRA adapter: configuration, tensors, files (safetensors only)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from fst.checkout import LAB_BASE
from fst.errors import ModelError
from fst.models.gguf import cache

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def lora_config(rank: int, alpha: int) -> LoraConfig:
    """LoRA on every linear layer except the output head. No dropout: answers are sampled from the trained weights."""
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Copy the adapter's tensors to the CPU; returns them by name."""
    return {
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
        for k, v in sorted(get_peft_model_state_dict(model).items())
    }


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as PEFT and vLLM load them. The files are deterministic:
    equal adapters on a base of the same name give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    base = base_name(getattr(model.get_base_model(), "name_or_path", ""))
    config = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(config, indent=1, sort_keys=True, default=sorted)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(save(adapter_state(model)))


def base_name(place: str) -> str | None:
    """Return the name of the base for adapter_config.json, given where it was loaded from: a hub id or folder as it
    stands in `model.base`; for the lab's base its path in a checkout, which PEFT finds from the project's root; None
    for an imported GGUF file, whose folder is in this machine's cache."""
    if Path(place) == LAB_BASE:
        return "models/lab_base"
    return None if not place or Path(place).is_relative_to(cache()) else place


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Replace the adapter's tensors by those in `folder`. Raises ModelError if names or shapes differ."""
    tensors = load_file(folder / WEIGHTS)
    expected = adapter_state(model)
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in expected.items()}:
        raise ModelError(f"{folder}: its adapter does not fit this model and LoRA rank; start a new run instead")
    set_peft_model_state_dict(model, tensors)


def adapter_name(folder: Path) -> str:
    """Return the name that engines give the adapter in a folder, a content hash. Raises ModelError if it has no
    weights."""
    try:
        return f"fst-{hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]}"
    except OSError as exc:
        raise ModelError(f"{folder} has no {WEIGHTS} ({exc.strerror}); name a folder with an adapter") from exc


def attach_adapter(model: PreTrainedModel, folder: Path, name: str = "default") -> PeftModel:
    """Wrap the model with the adapter in `folder`, frozen. Raises ModelError if it does not fit the model."""
    try:
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name, is_trainable=False).eval()
    except (ValueError, RuntimeError, OSError, SafetensorError) as exc:
        raise ModelError(f"{folder}: no adapter for this model ({exc}); check the base it was trained on") from exc


def adapter_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 over an adapter's tensor names, shapes, types and bytes; it does not depend on the file's
    header."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
