"""The policy: a causal LM with its chat template, which answers problems under prompts.

Any Hugging Face causal LM with a chat template works, by directory, hub id or GGUF file, with or without a system role.
Its engine (fst/models/engines/) samples the answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, TemplateSyntaxError, meta
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from fst.checkout import LAB_BASE
from fst.config import ModelParams, Params
from fst.config.learning import TEMPLATE_OWNED
from fst.errors import ConfigError, ModelError
from fst.models.device import device_of, group_heads, loading
from fst.models.engines.engine import Engine
from fst.models.engines.in_process import TransformersEngine
from fst.models.gguf import imported, is_gguf
from fst.models.sampler import Answer, Sampling
from fst.tables import did_you_mean

Message = dict[str, str]


@dataclass
class Reader:
    """A model's tokenizer and chat template: how problems and prompts look to the model. `options` are those of the
    template (model.chat_template_kwargs). `context` is the longest input in tokens, None where the model's
    configuration names no limit."""

    tokenizer: PreTrainedTokenizerBase
    name: str
    options: Mapping[str, Any]
    has_system_role: bool
    context: int | None

    def messages(self, prompt: str, question: str) -> list[Message]:
        """The conversation for a question under a prompt. For a model without a system role the prompt goes before the
        question; an empty prompt adds nothing."""
        if not prompt:
            return [{"role": "user", "content": question}]
        if self.has_system_role:
            return [{"role": "system", "content": prompt}, {"role": "user", "content": question}]
        return [{"role": "user", "content": f"{prompt}\n\n{question}"}]

    def encode(
        self, conversations: Sequence[list[Message]], options: Mapping[str, Any] | None = None
    ) -> list[list[int]]:
        """Token ids of each conversation, up to where the assistant's turn begins; `options` in place of the reader's
        own."""
        encoded = self.tokenizer.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            **(self.options if options is None else options),
        )
        return [list(ids) for ids in encoded["input_ids"]]

    def count_tokens(self, text: str) -> int:
        """Tokens in a text, special tokens that the tokenizer adds included."""
        return len(self.tokenizer(text)["input_ids"])

    def room(self, params: Params, context: int | None = None) -> int | None:
        """Tokens that a question may have, its turn of the chat template included, beside the longest prompt allowed,
        the turn around that, and an answer. `context` is what is read at once, if it is not the model's; None without a
        limit."""
        context = self.context if context is None else context
        if context is None:
            return None
        alone, prompted = map(len, self.encode([self.messages("", "1"), self.messages("1", "1")]))
        turn = max(0, prompted - alone - len(self.tokenizer("1", add_special_tokens=False)["input_ids"]))
        return context - turn - params.fast.max_prompt_tokens - params.model.max_new_tokens


@dataclass
class Policy(Reader):
    """A model with its tokenizer and engine. `model` is the plain base model, or the PEFT model around it once it has
    an adapter. `max_new_tokens` bounds an answer, `cache_bytes` the memory of a batch of answers. `drawn` counts the
    tokens that its engine has sampled, those of answers in the making included where the engine tells them."""

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
        """n sampled answers to each request, in order. The same seed and weights give the same answers."""
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
        """The answers with their texts: without special tokens, stripped of blanks."""
        texts = self.tokenizer.batch_decode([list(a.tokens) for a in answers], skip_special_tokens=True)
        return [Answer(a.tokens, a.logprobs, text.strip()) for a, text in zip(answers, texts, strict=True)]

    def cut(self, answer: Answer) -> bool:
        """Whether an answer of the usual length limit ran into it, so that its last token does not end it."""
        return len(answer.tokens) >= self.max_new_tokens and answer.tokens[-1] not in self.end_ids

    def count_drawn(self, tokens: int) -> None:
        """Told by the engine of tokens as it samples them."""
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


def _supports_system_role(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> bool:
    """Whether the chat template renders a system turn (some raise an error, some drop the turn)."""
    probe = [{"role": "system", "content": "fst-probe"}, {"role": "user", "content": "hello"}]
    try:
        return "fst-probe" in str(tokenizer.apply_chat_template(probe, tokenize=False, **options))
    except Exception:  # a chat template may raise anything
        return False


def _check_options(options: Mapping[str, Any], template: Any, base: str) -> None:
    """Raise ConfigError for an option that a chat template does not read: it would be without effect. A template that
    plain Jinja cannot parse is not checked."""
    try:
        read = meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template))
    except (TemplateSyntaxError, TypeError):
        return
    known = sorted(read - TEMPLATE_OWNED)
    for name in sorted(options.keys() - read):
        hint = did_you_mean(name, known) or f"; it reads: {', '.join(known) or 'none'}"
        raise ConfigError(f"model.chat_template_kwargs.{name}: the chat template of {base!r} reads no such name{hint}")


def load_reader(params: ModelParams) -> Reader:
    """The tokenizer of a model, without its weights. Raises ModelError, and ConfigError for options that its chat
    template does not read."""
    base, options = params.base, params.chat_template_kwargs
    with explained(base):
        path = model_place(base)
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        context = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", None)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"model {base!r} has no chat template; pick an instruction-tuned model, or add chat_template.jinja"
        )
    _check_options(options, tokenizer.chat_template, base)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Reader(tokenizer, base, options, _supports_system_role(tokenizer, options), context)


def load_policy(params: ModelParams) -> Policy:
    """Load the model of the parameters onto its device. Raises ModelError that says what to do, and ConfigError for a
    device that is not there."""
    disable_progress_bar()
    device = device_of(params.device)
    with explained(params.base):
        model = AutoModelForCausalLM.from_pretrained(model_place(params.base), **loading(params))
    group_heads(model, params)
    return _policy(params, model.to(device))


def without_weights(params: ModelParams) -> Policy:
    """The policy of the parameters with a model that holds no weights (torch's `meta` device): it encodes, decodes and
    knows what ends an answer, for an engine that answers with weights of its own. Raises ModelError."""
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


def model_place(base: str) -> str:
    """The directory or hub id of a model; a GGUF file is imported first. Raises ModelError for a file that cannot be,
    and when `lab` is asked for and its weights are missing."""
    if is_gguf(base):
        return str(imported(Path(base)))
    if base == "lab" and not (LAB_BASE / "model.safetensors").exists():
        raise ModelError(f"the lab base model is missing from {LAB_BASE}; build it with `fst lab-base build`")
    return str(LAB_BASE) if base == "lab" else base


@contextlib.contextmanager
def explained(base: str) -> Iterator[None]:
    """Turn a library's error about a model that cannot be loaded into a ModelError with a remedy."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as exc:
        raise ModelError(
            f"cannot load model {base!r}: {exc}\nGive a directory with config.json, model.safetensors and a tokenizer, "
            "a .gguf file, or a hub id with network access (HF_HUB_OFFLINE must not be set)"
        ) from exc
