"""The transformers engine: the policy's own model, in this process, batched; answers to one request share its prefill.

For serving, each adapter is attached to the model under its content hash, and asks are batched per adapter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel
from safetensors import SafetensorError

from fst.errors import EngineError, ModelError
from fst.models.adapter import adapter_name, attach_adapter
from fst.models.engines.engine import Ask, OnToken
from fst.models.sampler import Answer, Sampling, sample_answers, serve_rows

if TYPE_CHECKING:
    from fst.config import Params
    from fst.models.policy import Policy


class TransformersEngine:
    """Samples from `policy.model`, which is read at every call: training may have wrapped it in an adapter."""

    exact = True
    concurrent = False

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._names: set[str] = set()

    @property
    def context(self) -> int | None:
        return self._policy.context

    @classmethod
    def build(cls, policy: Policy, params: Params) -> TransformersEngine:
        return cls(policy)

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        return sample_answers(self._policy.model, requests, plan)

    def load(self, folder: Path) -> str:
        """An adapter that does not fit leaves those that were loaded in place."""
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
            if self._names:
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
        return self._policy.decoded([found[i] for i in range(len(asks))])

    def ready(self) -> str:
        return ""

    def join(self, address: str) -> None:
        """Does nothing: every process has its own model."""

    def rest(self) -> None:
        """Does nothing: the model that answers is the one that is trained."""

    def close(self) -> None:
        """Does nothing: the model belongs to the policy."""

    @contextlib.contextmanager
    def _with(self, name: str) -> Iterator[None]:
        """Switches the model to a loaded adapter. Raises EngineError for one that is not loaded."""
        if name not in self._names:
            raise EngineError(f"adapter {name} is not loaded; load its folder first")
        self._policy.model.set_adapter(name)
        yield
