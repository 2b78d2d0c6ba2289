"""The tree of a batch: invariants T1 to T5 of fst/models/tree.py."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fst.models.tree import encode_contexts, shared_prefixes, takes_tree, why_single

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


bodies_strategy = st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=7, unique=True)


def cost(bodies: list[tuple[int, ...]], clusters: list[tuple[int, list[int]]]) -> int:
    return sum(length + sum(len(bodies[i]) - length for i in members) for length, members in clusters)


def partitions(items: list[int]) -> list[list[list[int]]]:
    """All ways to put items into groups."""
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    return [
        [[first, *mates], *others]
        for size in range(len(rest) + 1)
        for mates in combinations(rest, size)
        for others in partitions([i for i in rest if i not in mates])
    ]


@given(bodies_strategy)
def test_t1_each_sequence_has_one_prefix_of_its_own_tokens(bodies: list[tuple[int, ...]]) -> None:
    clusters = shared_prefixes(bodies)
    assert sorted(i for _, members in clusters for i in members) == list(range(len(bodies)))
    for length, members in clusters:
        assert len({bodies[i][:length] for i in members}) == 1
        assert all(len(bodies[i]) >= length for i in members)


@settings(deadline=None)
@given(bodies_strategy.filter(lambda bodies: len(bodies) <= 5))
def test_t2_no_choice_of_prefixes_runs_fewer_tokens(bodies: list[tuple[int, ...]]) -> None:
    def common(members: list[int]) -> int:
        columns = zip(*(bodies[i] for i in members), strict=False)
        agree = [len(set(column)) == 1 for column in columns]
        return agree.index(False) if False in agree else len(agree)

    least = min(
        cost(bodies, [(common(members), members) for members in partition])
        for partition in partitions(list(range(len(bodies))))
    )
    assert cost(bodies, shared_prefixes(bodies)) == least


contexts_strategy = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=8), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(contexts_strategy, st.data())
def test_t3_the_next_token_is_as_likely_as_in_a_row_of_its_own(contexts: list[list[int]], data: st.DataObject) -> None:
    model = llama()
    rows = data.draw(st.lists(st.integers(0, len(contexts) - 1), min_size=1, max_size=5))
    with torch.no_grad():
        spread = encode_contexts(model, contexts, 0).spread(rows)
        last = torch.tensor([[contexts[i][-1]] for i in rows])
        mask = torch.cat([spread.mask, torch.ones_like(last)], -1)
        out = model(
            input_ids=last,
            attention_mask=mask,
            position_ids=spread.lengths[:, None],
            past_key_values=spread.cache,
        )
        for place, i in enumerate(rows):
            alone = model(input_ids=torch.tensor([contexts[i]])).logits[0, -1]
            torch.testing.assert_close(out.logits[place, -1], alone, atol=1e-5, rtol=1e-4)


def test_t5_equal_prefixes_run_once() -> None:
    """Four contexts, two prompts of 20 tokens, questions of 3: no batch holds a prompt more than once."""
    model, seen = llama(), []
    model.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [list(range(1, 21)), list(range(30, 50))]
    contexts = [[*prompt, *question] for prompt in prompts for question in ([50, 51, 52], [60, 61, 52])]
    with torch.no_grad():
        encode_contexts(model, [*contexts, contexts[0]], 0)
    assert seen == [(2, 20), (4, 2)], "the last token of a context runs with its answer"


def test_models_that_take_a_tree(tiny_model_dir: Path) -> None:
    assert takes_tree(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    assert takes_tree(Qwen2ForCausalLM(Qwen2Config(**SIZES)))
    assert not takes_tree(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)))
    checkpointed = llama()
    checkpointed.gradient_checkpointing_enable()
    assert not takes_tree(checkpointed)
    assert "gradient checkpointing" in why_single(checkpointed)


@pytest.mark.parametrize("contexts", [[[5]], [[5], [5]], [[1, 2], [3]], [[1, 2, 3], [1, 2], [1, 2, 3]]])
def test_t3_small_trees(contexts: list[list[int]]) -> None:
    with torch.no_grad():
        encoded = encode_contexts(llama(), contexts, 0)
    assert [int(encoded.lengths[r]) for r in encoded.row_of] == [len(c) - 1 for c in contexts]
