"""Attention over grouped heads is transformers' own, gradients included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fst.config import ModelParams
from fst.models.attention import GROUPED, grouped_attention
from fst.models.policy import load_policy


class Heads(torch.nn.Module):
    """What an attention layer tells its attention function."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 3), tokens=st.integers(1, 5), before=st.integers(0, 7), groups=st.sampled_from([1, 2, 3]),
    masked=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_values_and_gradients_are_those_of_sdpa(
    rows: int, tokens: int, before: int, groups: int, masked: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    kept, width, length = 2, 4, before + tokens
    shapes = [(rows, kept * groups, tokens, width), (rows, kept, length, width), (rows, kept, length, width)]
    mask = torch.ones(tokens, length, dtype=torch.bool).tril(before).expand(rows, 1, tokens, length).clone()
    mask[0, :, :, : min(before, 2)] = False
    inputs = [torch.randn(shape) for shape in shapes]
    found = []
    for attention in (sdpa_attention_forward, grouped_attention):
        leaves = [given.clone().requires_grad_() for given in inputs]
        out, _ = attention(Heads(groups), *leaves, mask if masked else None, scaling=0.3)
        out.square().sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for plain, ours in zip(*found, strict=True):
        assert ours.shape == plain.shape
        assert torch.allclose(ours, plain, atol=1e-5)


@pytest.mark.parametrize(("asked", "used"), [("auto", GROUPED), ("sdpa", "sdpa"), ("eager", "eager")])
def test_it_is_taken_where_nothing_else_is_asked_for(tiny_model_dir: Path, asked: str, used: str) -> None:
    policy = load_policy(ModelParams(base=str(tiny_model_dir), attention=asked))
    assert policy.model.config._attn_implementation == used


def test_a_saved_model_does_not_name_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelParams(base=str(tiny_model_dir)))
    policy.model.save_pretrained(tmp_path)
    assert GROUPED not in (tmp_path / "config.json").read_text()
