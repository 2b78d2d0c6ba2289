"""Encodes conversations as token ids such that no text can break out of its turn: users cannot write control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fst.models.reader import Message, Reader


class Encoder:
    """Encodes and decodes with a reader, the base model's tokenizer and chat template."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        tokenizer = reader.tokenizer
        self._control = frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)
        spelled = {tokenizer.convert_ids_to_tokens(i) for i in self._control}
        self._spelled = sorted((text for text in spelled if len(text) > 1), key=len, reverse=True)
        self._shapes: dict[Any, int] = {}  # control tokens by roles and options

    @property
    def context(self) -> int | None:
        return self._reader.context

    def chat(self, prompt: str, messages: Sequence[Message], options: Mapping[str, Any] | None = None) -> list[int]:
        """Encode a conversation with a domain's prompt in front, up to where the assistant's turn begins. The caller's
        system messages follow the prompt. `options` of the chat template replace the reader's. Raises ValueError if the
        texts still produce control tokens."""
        texts = [{"role": m["role"], "content": self._plain(m["content"])} for m in messages]
        system = [m["content"] for m in texts if m["role"] == "system"]
        turns = [m for m in texts if m["role"] != "system"]
        front = "\n\n".join(filter(None, [prompt, *system]))
        if front and self._reader.has_system_role:
            turns = [{"role": "system", "content": front}, *turns]
        elif front and turns:
            turns = [{**turns[0], "content": f"{front}\n\n{turns[0]['content']}"}, *turns[1:]]
        ids = self._reader.encode([turns], options)[0]
        if self._count(ids) != self._expected(tuple(m["role"] for m in turns), options):
            raise ValueError("the text contains control tokens of the model")
        return ids

    def is_control(self, token: int) -> bool:
        """Whether a token is a control token, such as the end of an answer, rather than text."""
        return token in self._control

    def text(self, tokens: Sequence[int]) -> str:
        """Decode an answer's tokens, without special tokens and surrounding white space."""
        return str(self._reader.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _plain(self, text: str) -> str:
        """Return the text with a space put into every spelled-out control token."""
        for spelled in self._spelled:
            if spelled in text:
                text = text.replace(spelled, f"{spelled[0]} {spelled[1:]}")
        return text

    def _expected(self, roles: tuple[str, ...], options: Mapping[str, Any] | None) -> int:
        """The number of control tokens that the chat template itself produces for these roles."""
        shape = (roles, None if options is None else tuple(sorted(options.items())))
        if shape not in self._shapes:
            turns = [{"role": role, "content": "x"} for role in roles]
            self._shapes[shape] = self._count(self._reader.encode([turns], options)[0])
        return self._shapes[shape]

    def _count(self, ids: Sequence[int]) -> int:
        return sum(i in self._control for i in ids)
