"""The transformers engine: the policy's own model, in this process, batched; answers to one request share its prefill.

For serving, each adapter is attached to the model under its content hash, and asks are batched adapter by adapter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.adapter import WEIGHTS
from models.engine import Ask, OnToken
from models.sampler import Answer, Sampling, sample_answers

if TYPE_CHECKING:
    from models.policy import Policy


def adapter_name(folder: Path) -> str:
    """The content-hashed name of an adapter on the disk."""
    return f"fst-{hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]}"


class TransformersEngine:
    """`policy` is read at every call: training may wrap its model meanwhile."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
        return sample_answers(self._policy.model, requests, plan)

    def load(self, folder: Path) -> str:
        raise NotImplementedError

    def unload(self, name: str) -> None:
        raise NotImplementedError

    def serve(self, asks: Sequence[Ask], on_token: OnToken | None = None) -> list[Answer]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held beside the policy."""
