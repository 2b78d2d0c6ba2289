"""Memory that a model needs, computed from its configuration: it is built without weights (torch's `meta` device)."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import psutil
import torch
from peft import PeftModel, get_peft_model
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoConfig, AutoModelForCausalLM

from fst.config import ModelParams
from fst.models.adapter import lora_config
from fst.models.cache import cache_bytes
from fst.models.device import group_heads, loading
from fst.models.policy import explained, model_place
from fst.models.tree import plain_model

PROBE = 256  # tokens of the row that activations are measured on


@dataclass(frozen=True)
class Footprint:
    """Numbers of parameters (all, and the adapter's), bytes per token (saved for the backward pass, and in the
    key-value cache), width of the hidden state and size of the vocabulary."""

    parameters: int
    adapter: int
    activation_bytes: int
    cache_bytes: int
    width: int
    vocabulary: int


def footprint(params: ModelParams, rank: int, checkpointing: bool = False) -> Footprint:
    """Compute the footprint of the parameters' model with a LoRA adapter of this rank. Raises ModelError if its
    configuration cannot be read."""
    with explained(params.base):
        config = AutoConfig.from_pretrained(model_place(params.base))
    with explained(params.base), torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(config, **loading(params))
        group_heads(bare, params)
        parameters = sum(p.numel() for p in bare.parameters())
        model = get_peft_model(bare, lora_config(rank, rank))
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    # Attention on `meta` saves what grows with the square of the tokens; real kernels do not, so that term is left out.
    linear = 2 * saved_bytes(model, PROBE) / PROBE - saved_bytes(model, 2 * PROBE) / (2 * PROBE)
    text = config.get_text_config()
    return Footprint(
        parameters=parameters,
        adapter=sum(p.numel() for p in model.parameters() if p.requires_grad),
        activation_bytes=round(linear),
        cache_bytes=cache_bytes(text, getattr(torch, params.dtype)),
        width=text.hidden_size,
        vocabulary=text.vocab_size,
    )


def saved_bytes(model: PeftModel, tokens: int) -> int:
    """Bytes that a forward pass over one row of tokens saves for the backward pass, excluding the output head's."""
    plain = plain_model(model)
    device = next(plain.parameters()).device
    mask = torch.zeros((1, 1, tokens, tokens), device=device, dtype=plain.dtype)  # taken as it is, and for every layer
    own = {StorageWeakRef(tensor.untyped_storage()) for tensor in (mask, *plain.parameters())}
    saved: dict[StorageWeakRef, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage not in own:
            saved[storage] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.zeros((1, tokens), dtype=torch.long, device=device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = plain.base_model.train()(input_ids=ids, attention_mask=mask, use_cache=False)
    total = sum(saved.values())
    del out
    return total


def device_bytes(device: torch.device) -> int:
    """Total memory of a device in bytes: a GPU's own, or the machine's for the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def peak_bytes() -> int:
    """Peak memory of this process in bytes: allocated on the GPU if it uses one, otherwise resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
