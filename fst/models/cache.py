"""The key-value cache of generation: it grows in steps instead of with every token, and counts its bytes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

STEP = 64  # tokens by which a layer's room grows


class GrowingLayer(DynamicLayer):
    """Keys and values (rows, heads, tokens, width), written into memory allocated ahead. If gradients are enabled,
    transformers' own layer, which copies, is used instead."""

    keys: torch.Tensor | None
    values: torch.Tensor | None
    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new tokens; returns all keys and all values."""
        if torch.is_grad_enabled():
            self._room = None
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

    def align(self, order: torch.Tensor) -> None:
        """Reorder each row's tokens: `order` (rows, tokens) has the current place of each."""
        if self.get_seq_length():
            self.keys, self.values = (part.gather(2, order[:, None, :, None].expand_as(part)) for part in self._held)
            self._room = None

    def trim(self, tokens: int) -> None:
        """Drop the first `tokens` tokens of every row. Their memory is freed the next time the layer grows."""
        self.keys, self.values = (part[:, :, tokens:] for part in self._held)
        if self._room is not None:
            self._room = self._room[0][:, :, tokens:], self._room[1][:, :, tokens:]

    def put(self, places: torch.Tensor, other: GrowingLayer, left: int, below: int) -> None:
        """Write the rows of another layer over the rows at `places` (rows), aligned at the last token. Before that,
        every row is padded with `left` tokens in front, and `below` rows are appended."""
        if left or below:
            self.keys, self.values = (functional.pad(part, (0, 0, left, 0, 0, 0, 0, below)) for part in self._held)
            self._room = None
        tokens = other.get_seq_length()
        for i, mine in enumerate(self._held):
            mine[places] = functional.pad(other._held[i], (0, 0, mine.shape[2] - tokens, 0)) if tokens else 0.0

    def copy_from(self, other: GrowingLayer, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """Fill an empty layer with tokens of another: its row i holds those at `tokens[i]` of row `rows[i]` there."""
        keys, values = (
            part[rows].gather(2, tokens[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))
            for part in other._held
        )
        self.update(keys, values)

    @property
    def _held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values; only for a layer that holds at least one token."""
        return cast(tuple[torch.Tensor, torch.Tensor], (self.keys, self.values))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._room = None


def _larger(old: torch.Tensor | None, given: torch.Tensor, before: int) -> torch.Tensor:
    """Allocate memory for `before` old tokens and the given ones, rounded up to a multiple of STEP; copies the old
    ones."""
    rows, heads, new, width = given.shape
    room = given.new_empty((rows, heads, (before + new + STEP - 1) // STEP * STEP, width))
    if before and old is not None:
        room[:, :, :before] = old
    return room


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """Make an empty cache for a model of this configuration. Special layers (sliding windows, recurrent states) stay
    those of transformers."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_bytes(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes that one token takes in the cache over all layers, assuming that each layer keeps every token."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kept * width * dtype.itemsize)
