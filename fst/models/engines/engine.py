"""Engines sample answers: one interface for training rollouts, fast rounds, evaluation and serving.

    transformers   the policy's own model in this process (fst/models/engines/in_process.py)
    vllm           a vLLM server over its OpenAI-compatible API, adapters loaded at run time
                   (fst/models/engines/vllm.py)

To add one, write a class with these methods and add a row to `ENGINES` (fst/tables.py). Adapters are named by their
content hash, so an engine that has an adapter of some name has that very adapter.
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
Told = tuple[int, int | Answer | FstError]  # an ask's key, with its next token, its answer, or its error


class Engine(Protocol):
    """The interface of an engine. Every method raises EngineError if the engine cannot answer: it died, is out of
    memory, or cannot reach its server."""

    exact: bool  # whether log-probabilities equal those of the policy's own model to the last digit
    concurrent: bool  # whether `serve` may run in many threads at once; otherwise it is a LocalEngine
    own_weights: bool  # whether it has its own copy of the weights; the gateway then does not load the policy's

    @property
    def context(self) -> int | None:
        """The most tokens that a request and its answer may have together; None if there is no limit."""
        ...

    @classmethod
    def build(cls, policy: Policy, params: Params) -> Self:
        """Make the engine of a policy. It must read `policy.model` at every call, as training wraps it in an
        adapter."""
        ...

    def ready(self) -> str:
        """Start or wake the engine, and load the policy's current weights into it. Returns the address at which other
        processes with the same weights reach it; empty if each process has its own engine."""
        ...

    def join(self, address: str) -> None:
        """Use the engine that another process made ready, at the address that its `ready` returned. The engine that
        returned the address, and engines without one, do nothing."""
        ...

    def rest(self) -> None:
        """Free the GPU until the next call, as far as the engine can. Call it only when no process waits for
        answers."""
        ...

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        """Sample rollouts: plan.n answers to each encoded request, in order, under the policy's current weights, with
        the log-probability of each token at temperature 1, in nats."""
        ...

    def load(self, folder: Path) -> str:
        """Load the adapter in a folder for serving; returns its name. Loading it again changes nothing. Raises
        ModelError for an adapter that does not fit the model."""
        ...

    def unload(self, name: str) -> None:
        """Unload an adapter; does nothing if it is not loaded."""
        ...

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        """Answer each ask once, in order; asks for different adapters may be mixed. `on_token` is called with every
        token except end tokens, as soon as it is drawn."""
        ...

    def close(self) -> None:
        """Release the engine's resources."""
        ...


class LocalEngine(Engine, Protocol):
    """An engine that runs the model itself. The gateway starts a process for it and steps its batch there."""

    def batch(self) -> Batch:
        """Make an empty batch."""
        ...


class Batch(Protocol):
    """Asks that are answered together; they may join and leave between two steps."""

    def __len__(self) -> int:
        """Number of asks that are not answered yet."""
        ...

    def join(self, key: int, ask: Ask) -> None:
        """Add an ask; `step` reports its tokens and its answer under `key`."""
        ...

    def leave(self, key: int) -> None:
        """Remove an ask; does nothing if it has been answered."""
        ...

    def step(self) -> list[Told]:
        """Draw the next token of every running ask. Returns every token except end tokens, followed by the answer, or
        the error instead of it, when an ask is done."""
        ...
