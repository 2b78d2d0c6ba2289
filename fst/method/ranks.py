"""Training on several processes (`accelerate launch`, torchrun): which one writes, and what all must agree on.

Every process is the whole program on its share of a step's rows. Fast rounds and evaluations run alike everywhere,
from the same seeds and weights. The process of rank 0 alone writes the run; the others keep a record of their own in
a temporary folder and read rank 0's checkpoints, so the run folder must be on storage that all can see.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed

from fst.errors import FstError
from fst.models.reflector import Proposal, Reflector

T = TypeVar("T")


class RanksDisagree(FstError):
    """The processes of one training run came to different results where all must have the same."""

    exit_code = 3


def rank() -> int:
    """This process's rank, 0 for a process on its own."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def everyones(items: list[T]) -> list[T]:
    """The items of all ranks, in the order of the ranks, on every rank."""
    if world() == 1:
        return items
    gathered: list[Any] = [None] * world()
    torch.distributed.all_gather_object(gathered, items)
    return [item for of_rank in gathered for item in of_rank]


def of_first(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def wait() -> None:
    """Block until every rank has called this."""
    if world() > 1:
        torch.distributed.barrier()


def agree(value: Any, what: str) -> None:
    """Compare a value over the ranks. Raises RanksDisagree unless it is the same on every one; `what` names it."""
    values = everyones([value])
    if any(other != value for other in values):
        raise RanksDisagree(
            f"the {world()} processes differ in {what}; use one kind of machine and one version of every package, "
            "then go on with --resume"
        )


def own_folder(folder: Path) -> Path:
    """The folder that this rank records in: the run's on rank 0, a temporary one elsewhere."""
    return folder if rank() == 0 else Path(tempfile.mkdtemp(prefix=f"fst-rank-{rank()}-")) / folder.name


class FirstAsks:
    """Shares a reflector whose answers its seed does not decide (a model behind an endpoint): rank 0 asks it, and every
    rank uses the answer."""

    def __init__(self, reflector: Reflector) -> None:
        self.reflector = reflector

    @property
    def usage(self) -> Any:
        return getattr(self.reflector, "usage", None)

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """See Reflector.propose. What it raises on rank 0 is raised on every rank: the others would wait otherwise."""
        answer: Proposal | Exception | None = None
        if rank() == 0:
            try:
                answer = self.reflector.propose(current, feedback, evidence, avoid, seed)
            except Exception as exc:
                answer = exc
        answer = of_first(answer)
        if isinstance(answer, Proposal):
            return answer
        raise answer or RanksDisagree("rank 0 sent no proposal")
