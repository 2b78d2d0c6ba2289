"""The transformers engine: the policy's own model, in this process, batched; answers to one request share its prefill.

For serving, each adapter is attached to the model under its content hash, and asks are batched adapter by adapter.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel
from safetensors import SafetensorError

from fst.errors import EngineError, ModelError
from fst.models.adapter import WEIGHTS, attach_adapter
from fst.models.engines.engine import Ask, OnToken
from fst.models.sampler import Answer, Sampling, sample_answers, serve_rows

if TYPE_CHECKING:
    from fst.models.policy import Policy


def adapter_name(folder: Path) -> str:
    """The content-hashed name of an adapter on the disk. Raises ModelError when it has no weights."""
    try:
        return f"fst-{hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]}"
    except OSError as exc:
        raise ModelError(f"{folder} has no {WEIGHTS} ({exc.strerror}); name a folder with an adapter") from exc


class TransformersEngine:
    """`policy` is read at every call: training may wrap its model meanwhile."""

    exact = True

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._names: set[str] = set()

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        return sample_answers(self._policy.model, requests, plan)

    def load(self, folder: Path) -> str:
        """Raises ModelError for an adapter that does not fit; what was loaded before stays."""
        name = adapter_name(folder)
        if name in self._names:
            return name
        model = self._policy.model
        if isinstance(model, PeftModel):
            try:
                model.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            except (ValueError, RuntimeError, OSError, SafetensorError, KeyError, TypeError) as exc:
                if name in model.peft_config:
                    model.delete_adapter(name)
                raise ModelError(f"{folder}: no adapter for this model ({exc}); check the base it is for") from exc
            model.eval()
        else:
            self._policy.model = attach_adapter(model, folder, name)
        self._names.add(name)
        return name

    def unload(self, name: str) -> None:
        if name not in self._names:
            return
        model = self._policy.model
        self._names.discard(name)
        if isinstance(model, PeftModel):
            if len(self._names):
                model.set_adapter(next(iter(self._names)))
                model.delete_adapter(name)
            else:
                self._policy.model = model.unload()

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        found: dict[int, Answer] = {}
        for adapter in dict.fromkeys(ask.adapter for ask in asks):
            places = [i for i, ask in enumerate(asks) if ask.adapter == adapter]
            rows = [asks[i] for i in places]

            def heard(row: int, token: int, places: list[int] = places) -> None:
                if on_token:
                    on_token(places[row], token)

            with self._policy.frozen_base() if adapter is None else self._with(adapter):
                answers = serve_rows(self._policy.model, rows, self._policy.end_ids, self._policy.pad_id, heard)
            found.update(zip(places, answers, strict=True))
        ordered = [found[i] for i in range(len(asks))]
        texts = self._policy.tokenizer.batch_decode([list(a.tokens) for a in ordered], skip_special_tokens=True)
        return [Answer(a.tokens, a.logprobs, text.strip()) for a, text in zip(ordered, texts, strict=True)]

    def close(self) -> None:
        """Nothing is held beside the policy."""

    @contextlib.contextmanager
    def _with(self, name: str) -> Iterator[None]:
        """The model with one of its adapters in force. Raises EngineError for one that is not loaded."""
        if name not in self._names:
            raise EngineError(f"adapter {name} is not loaded; load its folder first")
        self._policy.model.set_adapter(name)
        yield
