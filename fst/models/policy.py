"""The policy: a causal LM with its chat template, which answers problems under prompts.

Any Hugging Face causal LM with a chat template works, by directory, hub id or GGUF file, with or without a system role.
Its engine (fst/models/engines/) samples the answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from fst.config import ModelParams
from fst.models.device import device_of, group_heads, loading
from fst.models.engines.engine import Engine
from fst.models.engines.in_process import TransformersEngine
from fst.models.reader import Message, Reader, explained, load_reader, model_place
from fst.models.sampler import Answer, Sampling

__all__ = ["Message", "Policy", "Reader", "explained", "load_policy", "load_reader", "model_place", "without_weights"]


@dataclass
class Policy(Reader):
    """A model with its tokenizer and engine. `model` is the plain base model, or the PEFT model around it once it has
    an adapter. `max_new_tokens` bounds an answer, `cache_bytes` the memory of a batch of answers. `drawn` counts the
    tokens that its engine has sampled, including those of unfinished answers if the engine reports them."""

    model: PreTrainedModel | PeftModel
    max_new_tokens: int
    cache_bytes: int
    engine: Engine = field(init=False)
    drawn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.engine = TransformersEngine(self)

    def answer(
        self,
        requests: Sequence[list[Message]],
        n: int,
        seed: int,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
    ) -> list[list[Answer]]:
        """Sample n answers to each request, in order. The same seed and weights give the same answers."""
        return self.answer_ids(self.encode(requests), n, seed, temperature, max_new_tokens)

    def answer_ids(
        self,
        requests: Sequence[list[int]],
        n: int,
        seed: int,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
    ) -> list[list[Answer]]:
        """As `answer`, for encoded requests."""
        limit = max_new_tokens or self.max_new_tokens
        plan = Sampling(n, limit, temperature, self.end_ids, self.pad_id, seed, self.cache_bytes)
        groups = self.engine.sample(requests, plan)
        decoded = iter(self.decoded([answer for group in groups for answer in group]))
        return [[next(decoded) for _ in group] for group in groups]

    def decoded(self, answers: Sequence[Answer]) -> list[Answer]:
        """The answers with their texts decoded, without special tokens and surrounding white space."""
        texts = self.tokenizer.batch_decode([list(a.tokens) for a in answers], skip_special_tokens=True)
        return [dataclasses.replace(a, text=text.strip()) for a, text in zip(answers, texts, strict=True)]

    def cut(self, answer: Answer) -> bool:
        """Whether an answer was cut off at `max_new_tokens` instead of ending with an end token."""
        return len(answer.tokens) >= self.max_new_tokens and answer.tokens[-1] not in self.end_ids

    def count_drawn(self, tokens: int) -> None:
        """Add to `drawn`; the engine calls this as it samples tokens."""
        self.drawn += tokens

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end an answer: the tokenizer's and the generation configuration's."""
        ids = {self.tokenizer.eos_token_id}
        configured = getattr(self.model, "generation_config", None)
        extra = getattr(configured, "eos_token_id", None)
        ids |= set(extra if isinstance(extra, list) else [extra])
        return tuple(sorted(i for i in ids if i is not None))

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @contextlib.contextmanager
    def frozen_base(self) -> Iterator[None]:
        """Switch the adapter off inside the block: the frozen base model answers."""
        if isinstance(self.model, PeftModel):
            with self.model.disable_adapter():
                yield
        else:
            yield


def load_policy(params: ModelParams) -> Policy:
    """Load the model of the parameters onto its device. Raises ModelError if it cannot be loaded, and ConfigError for a
    device that torch does not see."""
    disable_progress_bar()
    device = device_of(params.device)
    with explained(params.base):
        model = AutoModelForCausalLM.from_pretrained(model_place(params.base), **loading(params))
    group_heads(model, params)
    return _policy(params, model.to(device))


def without_weights(params: ModelParams) -> Policy:
    """Make the policy of the parameters around a model without weights (torch's `meta` device). It encodes, decodes and
    knows the end tokens, for an engine that has its own weights. Raises ModelError if the model cannot be read."""
    with explained(params.base):
        config = AutoConfig.from_pretrained(model_place(params.base))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **loading(params))
        with contextlib.suppress(OSError):  # a model without generation_config.json: its config says what ends
            model.generation_config = GenerationConfig.from_pretrained(model_place(params.base))
    return _policy(params, model)


def _policy(params: ModelParams, model: PreTrainedModel) -> Policy:
    return Policy(
        **vars(load_reader(params)),
        model=model.eval(),
        max_new_tokens=params.max_new_tokens,
        cache_bytes=int(params.cache_gb * 2**30),
    )
