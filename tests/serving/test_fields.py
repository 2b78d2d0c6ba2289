"""Fields of a request. F1 what is not served is refused by its name, in the error's `param` too; F2 a value that asks
for nothing is taken; F3 top_p is checked, and the sampler keeps to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fst.models.sampler import _draw
from fst.serving.feedback import said
from fst.serving.openai import LEAST_TOP_P, BadRequest, parse_request

CHAT: dict[str, Any] = {"model": "fst", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    "values",
    [
        {"tools": [{"type": "function"}]}, {"tool_choice": "required"}, {"functions": [{}]}, {"logprobs": True},
        {"response_format": {"type": "json_object"}}, {"top_logprobs": 3}, {"logit_bias": {"5": 1}}, {"audio": {}},
        {"presence_penalty": 0.5}, {"frequency_penalty": -1}, {"best_of": 2}, {"echo": True}, {"suffix": "x"},
        {"prediction": {}}, {"reasoning_effort": "low"}, {"top_k": 5}, {"guided_json": {}}, {"prompt": "x"},
        {"modalities": ["audio"]}, {"store": True}, {"nonsense": 0}, {"logprobs": 0},
    ],
)  # fmt: skip
def test_f1_what_is_not_served_is_refused_by_its_name(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(BadRequest, match=f"^{name}: is not supported") as refused:
        parse_request({**CHAT, **values}, 64, chat=True)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "unsupported_field", name)


def test_f1_below_the_top_too() -> None:
    message = {"role": "user", "content": "hello", "tool_calls": [{"id": "x"}]}
    with pytest.raises(BadRequest, match=r"^messages\[0\]\.tool_calls: is not supported"):
        parse_request({**CHAT, "messages": [message]}, 64, chat=True)
    with pytest.raises(BadRequest, match=r"^stream_options\.other: is not supported"):
        parse_request({**CHAT, "stream_options": {"other": 1}}, 64, chat=True)
    with pytest.raises(BadRequest, match=r"^messages: is not supported"):
        parse_request({**CHAT, "prompt": "x"}, 64, chat=False)
    with pytest.raises(BadRequest, match=r"^score: is not supported"):
        said({"id": "x", "score": 1}, "alice")


def test_f2_a_value_that_asks_for_nothing_is_taken() -> None:
    nothing = {
        "tools": None, "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False, "logit_bias": {},
        "presence_penalty": 0, "frequency_penalty": 0.0, "user": "u1", "metadata": {"a": "b"}, "audio": None,
        "parallel_tool_calls": True, "store": False,
    }  # fmt: skip
    echoed = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "annotations": []}
    asked = parse_request({**CHAT, "messages": [*CHAT["messages"], echoed], **nothing}, 64, chat=True)
    assert asked.messages[1] == {"role": "assistant", "content": "hi"}
    assert asked.top_p == 1.0


@pytest.mark.parametrize("value", [-0.1, 1.1, "all", True, float("nan")])
def test_f3_top_p_is_checked(value: object) -> None:
    with pytest.raises(BadRequest, match=r"^top_p: expected a number from 0 to 1"):
        parse_request({**CHAT, "top_p": value}, 64, chat=True)


def test_f3_the_sampler_keeps_to_it() -> None:
    """Probabilities 0.5, 0.3, 0.15, 0.05 in another order; 10,000 even draws of each row."""
    likely = torch.tensor([0.15, 0.5, 0.05, 0.3])
    n = 10_000
    noise = (torch.arange(n) + 0.5) / n
    for top_p, expected in (
        (1.0, [0.15, 0.5, 0.05, 0.3]),
        (0.96, [0.15, 0.5, 0.05, 0.3]),
        (0.9, [0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95]),
        (0.7, [0, 0.625, 0, 0.375]),
        (0.4, [0, 1, 0, 0]),
        (LEAST_TOP_P, [0, 1, 0, 0]),
    ):
        logits = likely.log().expand(n, 4)
        tokens, logprobs, drawn_at = _draw(logits, torch.ones(n), torch.full((n,), top_p), noise)
        shares = torch.bincount(tokens, minlength=4) / n
        assert torch.allclose(shares, torch.tensor(expected, dtype=torch.float), atol=2e-4), top_p
        assert torch.allclose(logprobs, likely[tokens].log(), atol=1e-6), "of the model itself"
        assert torch.allclose(drawn_at, torch.tensor(expected)[tokens].log(), atol=1e-5), "of the nucleus"


def test_f3_a_row_without_it_is_drawn_as_alone() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    noise, warm = torch.tensor([0.1, 0.5, 0.9, 0.999999, 0.3]), torch.tensor([1.0, 0.7, 1.3, 1.0, 0.0])
    mixed, *_ = _draw(logits, warm, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5]), noise)
    alone, *_ = _draw(logits, warm, torch.ones(5), noise)
    assert mixed.tolist() == alone.tolist()
