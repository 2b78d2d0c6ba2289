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

from fst.models.sampler import Answer, Ask, Sampling

if TYPE_CHECKING:
    from fst.config import Params
    from fst.models.policy import Policy

__all__ = ["Answer", "Ask", "Engine", "OnToken", "Sampling"]

OnToken = Callable[[int, int], None]  # (index of the ask, token id), as soon as it is drawn


class Engine(Protocol):
    """Every method raises EngineError when the engine cannot answer: it died, is out of memory, or cannot reach its
    server."""

    exact: bool  # whether log-probabilities are those of the policy's own model, to the last digit
    concurrent: bool  # whether `serve` may run in many threads at once; otherwise the gateway gives it a process

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
