"""Engines: who samples answers. One interface for training rollouts, fast rounds, evaluation and serving.

    transformers   the policy's own model in this process (fst/models/engines/in_process.py); the default on CPU
    vllm           a vLLM server over its OpenAI-compatible API; adapters loaded at run time
                   (fst/models/engines/vllm.py)

Adapters go by content-hashed names that are never reused: an engine that has one of that name has that adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fst.models.sampler import Answer, Ask, Sampling

__all__ = ["Answer", "Ask", "Engine", "OnToken", "Sampling"]

OnToken = Callable[[int, int], None]  # (index of the ask, token id), as soon as it is drawn


class Engine(Protocol):
    """Raises EngineError when the engine cannot answer (it died, it is out of memory, it does not reach its server)."""

    exact: bool  # whether it samples from the policy's own model, number for number

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        """Rollouts: plan.n answers to each encoded request under the policy's weights as they are now, in order, with
        the log-probabilities of the tokens under the sampling distribution's model at T=1."""
        ...

    def load(self, folder: Path) -> str:
        """Make an adapter servable; returns its name. Loading it again changes nothing."""
        ...

    def unload(self, name: str) -> None:
        """Forget an adapter; one that is not loaded is no error."""
        ...

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        """One answer to each ask, in order; asks of several adapters may come together."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...
