"""Conversations as token ids that no text can break out of: what a user writes never becomes a control token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fst.models.reader import Message, Reader


class Encoder:
    """`reader` is the base model's tokenizer with its chat template."""

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
        """Token ids of a conversation with a domain's prompt in front, ready for the assistant's turn. The caller's
        system messages follow the prompt. `options` of the chat template take the place of the reader's. Raises
        ValueError for control tokens that the texts put into it."""
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
            raise ValueError("the text holds control tokens of the model")
        return ids

    def is_control(self, token: int) -> bool:
        """Whether a token is a control token, such as the end of an answer, and not text."""
        return token in self._control

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self._reader.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _plain(self, text: str) -> str:
        """The text with the spelling of every control token broken up."""
        for spelled in self._spelled:
            if spelled in text:
                text = text.replace(spelled, f"{spelled[0]} {spelled[1:]}")
        return text

    def _expected(self, roles: tuple[str, ...], options: Mapping[str, Any] | None) -> int:
        """The number of control tokens in a conversation of these roles, whatever its texts are."""
        shape = (roles, None if options is None else tuple(sorted(options.items())))
        if shape not in self._shapes:
            turns = [{"role": role, "content": "x"} for role in roles]
            self._shapes[shape] = self._count(self._reader.encode([turns], options)[0])
        return self._shapes[shape]

    def _count(self, ids: Sequence[int]) -> int:
        return sum(i in self._control for i in ids)
