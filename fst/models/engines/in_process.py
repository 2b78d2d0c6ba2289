"""The transformers engine: the policy's own model, in this process, batched; answers to one request share its prefill.

For serving, each adapter is attached to the model under its content hash; asks are batched per adapter, and join and
leave between two steps (fst/models/engines/joining.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel
from safetensors import SafetensorError

from fst.errors import EngineError, FstError, ModelError
from fst.models.adapter import adapter_name, attach_adapter
from fst.models.engines.engine import Ask, OnToken
from fst.models.engines.joining import RunningBatch
from fst.models.sampler import Answer, Sampling, evaluating, sample_answers

if TYPE_CHECKING:
    from fst.config import Params
    from fst.models.policy import Policy


class TransformersEngine:
    """Samples from `policy.model`, read at every call because training may have wrapped it in an adapter."""

    exact = True
    concurrent = False
    own_weights = False

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
        return sample_answers(self._policy.model, requests, plan, self._policy.count_drawn)

    def load(self, folder: Path) -> str:
        """See Engine.load. If the adapter does not fit, those loaded before stay."""
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

    def batch(self) -> RunningBatch:
        return RunningBatch(self._policy, self._weights)

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        batch, found = self.batch(), dict[int, Answer]()
        for place, ask in enumerate(asks):
            batch.join(place, ask)
        with evaluating(self._policy.model):
            while len(batch):
                for place, told in batch.step():
                    if isinstance(told, FstError):
                        raise told
                    if isinstance(told, Answer):
                        found[place] = told
                    elif on_token:
                        on_token(place, told)
        return [found[place] for place in range(len(asks))]

    def ready(self) -> str:
        return ""

    def join(self, address: str) -> None:
        """Do nothing: every process has its own model."""

    def rest(self) -> None:
        """Do nothing: the model that answers is the one that is trained."""

    def close(self) -> None:
        """Do nothing: the model belongs to the policy."""

    @contextlib.contextmanager
    def _weights(self, adapter: str | None) -> Iterator[None]:
        """Activate a loaded adapter inside the block, or the base for None. Raises EngineError if it is not loaded."""
        if adapter is None:
            with self._policy.frozen_base():
                yield
            return
        if adapter not in self._names:
            raise EngineError(f"adapter {adapter} is not loaded; load its folder first")
        if self._policy.model.active_adapter != adapter:  # switching visits every layer
            self._policy.model.set_adapter(adapter)
        yield
