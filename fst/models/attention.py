"""Attention that reads the keys of a group of heads in place.

In grouped-query attention (arXiv 2305.13245) several query heads share one key head. Given a mask, transformers repeats
keys and values for each query head, and these copies are most of what decoding reads and much of what training saves
for the backward pass. Here the query heads of a group are treated as additional queries of their key head: the result
is the same, and nothing is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "fst_grouped"  # its name in transformers


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with the signature that transformers expects: query (rows, heads, tokens, width); key, value (rows, key
    heads, length, width); attention_mask (rows, 1, tokens, length) or None. Returns (rows, tokens, heads, width)."""
    rows, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    if groups == 1 or attention_mask is None or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    found = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, -1, groups * tokens, width),
        key,
        value,
        attn_mask=attention_mask if tokens == 1 else attention_mask.repeat(1, 1, groups, 1),
        dropout_p=options.get("dropout", 0.0),
        scale=options.get("scaling"),
    )
    return found.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
