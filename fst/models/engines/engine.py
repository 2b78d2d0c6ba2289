"""Engines sample answers: one interface for training rollouts, fast rounds, evaluation and serving.

    transformers   the policy's own model in this process (fst/models/engines/in_process.py)
    vllm           a vLLM server over its OpenAI-compatible API, adapters loaded at run time
                   (fst/models/engines/vllm.py)

To add one: a class with these methods, and a row in `ENGINES` (fst/tables.py). Adapters have content-hashed names that
are never reused: an engine that has an adapter of that name has that adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from fst.errors import FstError
from fst.models.sampler import Answer, Ask, Sampling

if TYPE_CHECKING:
    from fst.config import Params
    from fst.models.policy import Policy

__all__ = ["Answer", "Ask", "Batch", "Engine", "LocalEngine", "OnToken", "Sampling", "Told"]

OnToken = Callable[[int, int], None]  # (index of the ask, token id), as soon as it is drawn
Told = tuple[int, int | Answer | FstError]  # an ask's key, and its next token, its answer, or why it has none


class Engine(Protocol):
    """Every method raises EngineError when the engine cannot answer: it died, is out of memory, or cannot reach its
    server."""

    exact: bool  # whether log-probabilities are those of the policy's own model, to the last digit
    concurrent: bool  # whether `serve` may run in many threads at once; otherwise it is a LocalEngine
    own_weights: bool  # whether it answers with weights of its own; then the gateway does not load the policy's

    @property
    def context(self) -> int | None:
        """Tokens of a request and its answer together, at most; None where there is no limit."""
        ...

    @classmethod
    def build(cls, policy: Policy, params: Params) -> Self:
        """The engine of a policy. `policy.model` is to be read at every call: training wraps it in an adapter."""
        ...

    def ready(self) -> str:
        """Start or wake what answers, and load the policy's current weights into it. Returns the address
        by which other processes with the same weights reach it; empty where each process has an engine of its own."""
        ...

    def join(self, address: str) -> None:
        """Answer with what another process has made ready, by the address that it gave. The engine that gave it, and
        engines without an address, do nothing."""
        ...

    def rest(self) -> None:
        """Leave the GPU to others until the next call, as far as the engine can. No process may be waiting for
        answers."""
        ...

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        """Rollouts: plan.n answers to each encoded request, in order, under the policy's current weights, with the
        log-probability of each token at temperature 1, in nats."""
        ...

    def load(self, folder: Path) -> str:
        """Load the adapter in a folder for serving; returns its name. Loading it again changes nothing. Raises
        ModelError for an adapter that does not fit the model."""
        ...

    def unload(self, name: str) -> None:
        """Drop an adapter; one that is not loaded is no error."""
        ...

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        """One answer to each ask, in order; asks for different adapters may come together. `on_token` is called with
        every token except those that end an answer, as soon as it is drawn."""
        ...

    def close(self) -> None:
        """Release what the engine holds."""
        ...


class LocalEngine(Engine, Protocol):
    """An engine that runs the model itself. The gateway gives it a process and steps its batch there."""

    def batch(self) -> Batch:
        """An empty batch of this engine's."""
        ...


class Batch(Protocol):
    """Asks that are answered together and join and leave between two steps."""

    def __len__(self) -> int:
        """Asks that are not answered yet."""
        ...

    def join(self, key: int, ask: Ask) -> None:
        """Add an ask; what becomes of it is told under `key`."""
        ...

    def leave(self, key: int) -> None:
        """Take an ask out; one that has been answered is no error."""
        ...

    def step(self) -> list[Told]:
        """Draw the next token of every ask that runs. Every token is told except those that end an answer, and then
        the answer, or the error in its place."""
        ...
