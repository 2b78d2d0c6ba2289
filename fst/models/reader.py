"""How problems and prompts look to a model: its tokenizer and chat template, read without its weights.

This module is for code that only counts tokens. It avoids importing PEFT and, for the lab, transformers' model classes,
which take seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateSyntaxError, meta
from safetensors import SafetensorError

from fst.checkout import LAB_BASE
from fst.config import ModelParams, Params
from fst.config.learning import TEMPLATE_OWNED
from fst.errors import ConfigError, ModelError
from fst.models.gguf import imported, is_gguf
from fst.tables import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


@dataclass
class Reader:
    """A model's tokenizer and chat template: how problems and prompts look to the model. `options` are those of the
    template (model.chat_template_kwargs). `context` is the longest input in tokens, None if the model's configuration
    names no limit."""

    tokenizer: PreTrainedTokenizerBase
    name: str
    options: Mapping[str, Any]
    has_system_role: bool
    context: int | None

    def messages(self, prompt: str, question: str) -> list[Message]:
        """Make the conversation for a question under a prompt. For a model without a system role, the prompt is put
        before the question; an empty prompt adds nothing."""
        if not prompt:
            return [{"role": "user", "content": question}]
        if self.has_system_role:
            return [{"role": "system", "content": prompt}, {"role": "user", "content": question}]
        return [{"role": "user", "content": f"{prompt}\n\n{question}"}]

    def encode(
        self, conversations: Sequence[list[Message]], options: Mapping[str, Any] | None = None
    ) -> list[list[int]]:
        """Encode each conversation as token ids, up to where the assistant's turn begins. `options` replace those of
        the reader."""
        encoded = self.tokenizer.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            **(self.options if options is None else options),
        )
        return [list(ids) for ids in encoded["input_ids"]]

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text, including special tokens that the tokenizer adds."""
        return len(self.tokenizer(text)["input_ids"])

    def room(self, params: Params, context: int | None = None) -> int | None:
        """Tokens that a question may have, including its turn of the chat template, so that it fits beside the longest
        prompt allowed, that prompt's turn, and an answer. `context` is the limit in tokens, by default the model's own.
        Returns None if there is no limit."""
        context = self.context if context is None else context
        if context is None:
            return None
        alone, prompted = map(len, self.encode([self.messages("", "1"), self.messages("1", "1")]))
        turn = max(0, prompted - alone - len(self.tokenizer("1", add_special_tokens=False)["input_ids"]))
        return context - turn - params.fast.max_prompt_tokens - params.model.max_new_tokens


def _supports_system_role(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> bool:
    """Whether the chat template renders a system turn (some raise an error, some drop the turn)."""
    probe = [{"role": "system", "content": "fst-probe"}, {"role": "user", "content": "hello"}]
    try:
        return "fst-probe" in str(tokenizer.apply_chat_template(probe, tokenize=False, **options))
    except Exception:  # a chat template may raise anything
        return False


def _check_options(options: Mapping[str, Any], template: Any, base: str) -> None:
    """Raise ConfigError for an option that the chat template does not use, and which would have no effect. A template
    that plain Jinja cannot parse is not checked."""
    try:
        read = meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template))
    except (TemplateSyntaxError, TypeError):
        return
    known = sorted(read - TEMPLATE_OWNED)
    for name in sorted(options.keys() - read):
        hint = did_you_mean(name, known) or f"; it reads: {', '.join(known) or 'none'}"
        raise ConfigError(f"model.chat_template_kwargs.{name}: the chat template of {base!r} reads no such name{hint}")


def _read(base: str) -> tuple[PreTrainedTokenizerBase, int | None]:
    """Read a model's tokenizer and its context. The lab's tokenizer has a known class and states the context, which
    saves importing transformers' Auto classes: they take seconds, because they import all models."""
    path = model_place(base)
    if base == "lab":
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, padding_side="left")
        return tokenizer, tokenizer.model_max_length
    from transformers import AutoConfig, AutoTokenizer

    context = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", None)
    return AutoTokenizer.from_pretrained(path, padding_side="left"), context


def load_reader(params: ModelParams) -> Reader:
    """Load the tokenizer and chat template of a model, without its weights. Raises ModelError if they cannot be loaded,
    and ConfigError for options that the chat template does not use."""
    base, options = params.base, params.chat_template_kwargs
    with explained(base):
        tokenizer, context = _read(base)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"model {base!r} has no chat template; pick an instruction-tuned model, or add chat_template.jinja"
        )
    _check_options(options, tokenizer.chat_template, base)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Reader(tokenizer, base, options, _supports_system_role(tokenizer, options), context)


def model_place(base: str) -> str:
    """Return the directory or hub id of a model; a GGUF file is imported first. Raises ModelError if the file cannot be
    imported, or if the weights of `lab` are missing."""
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
