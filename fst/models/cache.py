"""The key-value cache of generation: it grows in steps instead of with every token, and counts its bytes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

STEP = 64  # tokens by which a layer's room grows


class GrowingLayer(DynamicLayer):
    """Keys and values (rows, heads, tokens, width), written into room that is kept ahead. Where a gradient is wanted,
    transformers' own layer, which copies, takes over."""

    keys: torch.Tensor | None
    values: torch.Tensor | None
    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new tokens; returns all keys and all values."""
        if torch.is_grad_enabled():
            return super().update(key_states, value_states, *args, **kwargs)
        before, new = self.get_seq_length(), key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._room is None or self._room[0].shape[-2] < before + new:
            self._room = _larger(self.keys, key_states, before), _larger(self.values, value_states, before)
        keys, values = self._room
        keys[:, :, before : before + new] = key_states
        values[:, :, before : before + new] = value_states
        self.keys, self.values = known = keys[:, :, : before + new], values[:, :, : before + new]
        return known

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._room = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._room = None


def _larger(old: torch.Tensor | None, given: torch.Tensor, before: int) -> torch.Tensor:
    """Room for `before` old tokens, the given ones, and up to a whole number of steps."""
    rows, heads, new, width = given.shape
    room = given.new_empty((rows, heads, (before + new + STEP - 1) // STEP * STEP, width))
    if before and old is not None:
        room[:, :, :before] = old
    return room


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of this configuration. Layers of a kind of their own (sliding windows, recurrent
    states) stay transformers'."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the cache, over all layers, each of which is counted as if it kept every token."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kept * width * dtype.itemsize)
