"""Forced scoring. The invariants:

f1  a log-probability is that of a row alone, whatever the slices, the chunks, shared contexts and padding
f2  logits are the model's own, also where it scales or caps them
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from fst.models.likelihood import answer_logprobs, head_logits
from fst.models.policy import Policy
from fst.models.tree import plain_model

CONTEXTS = [[3, 137, 148, 4, 18, 246, 5], [3, 137, 148, 5], [3, 137, 148, 5], [4, 60, 5], [9]]
ANSWERS = [[10, 40, 30], [50], [70, 20, 90, 45, 101, 99, 23], [], [8, 9]]


@pytest.mark.parametrize("logits", [2**24, 2000, 1])
@pytest.mark.parametrize("tokens", [8192, 20, 1])
def test_f1_is_that_of_a_row_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch, tokens: int, logits: int) -> None:
    monkeypatch.setattr("fst.models.likelihood.MAX_TOKENS", tokens)
    monkeypatch.setattr("fst.models.likelihood.MAX_LOGITS", logits)
    expected = []
    for context, answer in zip(CONTEXTS, ANSWERS, strict=True):
        with torch.no_grad():
            found = policy.model(input_ids=torch.tensor([context + answer])).logits[0].log_softmax(-1)
        expected.append(sum(float(found[len(context) - 1 + t, token]) for t, token in enumerate(answer)))
    assert answer_logprobs(policy.model, CONTEXTS, ANSWERS, 0) == pytest.approx(expected, abs=1e-4)
    assert answer_logprobs(policy.model, [], [], 0) == []


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    "model",
    [
        CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)),
        GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
        Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.1)),
    ],
    ids=["scaled up", "scaled down", "capped"],
)
def test_f2_logits_are_the_models_own(model: Any) -> None:
    ids = torch.tensor([[5, 9, 33]])
    with torch.no_grad():
        own = model.eval()(input_ids=ids).logits[0]
        states = plain_model(model).base_model(input_ids=ids).last_hidden_state[0]
        bare = model.get_output_embeddings()(states)
        torch.testing.assert_close(head_logits(model, states), own)
    assert not torch.allclose(own, bare), "the case should tell the difference"
