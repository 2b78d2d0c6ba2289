"""Training on several processes (`accelerate launch`, torchrun): which one does what, and what all must agree on.

Every process is the whole program on its share of a step's rows. Rank 0 alone runs fast rounds and evaluations, tells
the others what came of them, and starts the engine's server where it has one. It alone writes the run; the others keep
a record of their own in a temporary folder and read rank 0's checkpoints, so the run folder must be on storage that all
can see. Where the processes hold one model in parts (`sharded`), each of its passes takes all of them: fast rounds and
evaluations then run alike everywhere, from the same seeds and weights.
"""

from __future__ import annotations

import datetime
import functools
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed

from fst.errors import FstError
from fst.models.engines.engine import Engine
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


def sharded() -> bool:
    """Whether the launcher asks for a model in parts, one on each process: FSDP, or stage 3 of DeepSpeed."""
    told = os.environ.get
    return told("ACCELERATE_USE_FSDP") == "true" or (
        told("ACCELERATE_USE_DEEPSPEED") == "true" and told("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    )


def everyones(items: list[T]) -> list[T]:
    """The items of all ranks, in the order of the ranks, on every rank."""
    if world() == 1:
        return items
    gathered: list[Any] = [None] * world()
    torch.distributed.all_gather_object(gathered, items, group=_group())
    return [item for of_rank in gathered for item in of_rank]


def of_first(work: Callable[[], T]) -> T:
    """Do `work` on rank 0 alone, while the others wait. What it returns or raises there, it does on every rank."""
    if world() == 1:
        return work()
    box: list[Any] = [None, None]
    failed: Exception | None = None
    if rank() == 0:
        try:
            box[0] = work()
        except Exception as exc:
            failed, box[1] = exc, _sendable(exc)
    torch.distributed.broadcast_object_list(box, group=_group())
    if failed or box[1]:
        raise failed or box[1]
    return box[0]


def share(engine: Engine) -> None:
    """Make rank 0's engine ready to answer, and let every rank answer with it."""
    if world() == 1:
        return  # it gets ready when it is asked
    engine.join(of_first(engine.ready))


def wait() -> None:
    """Block until every rank has called this."""
    if world() > 1:
        torch.distributed.barrier(group=_group())


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


@functools.cache
def _group() -> Any:
    """All ranks, over gloo: objects need no GPU, and the others wait for rank 0 as long as it works. A rank that dies
    ends the wait."""
    return torch.distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=30))


def _sendable(exc: Exception) -> Exception:
    """The exception, or one that says the same where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:
        return RuntimeError(f"rank 0 failed: {type(exc).__name__}: {exc}")
    return exc


class FirstAsks:
    """Shares a reflector whose answers its seed does not decide (a model behind an endpoint), where every rank runs the
    fast rounds: rank 0 asks it, and every rank uses the answer."""

    def __init__(self, reflector: Reflector) -> None:
        self.reflector = reflector

    @property
    def usage(self) -> Any:
        return getattr(self.reflector, "usage", None)

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """See Reflector.propose. What it raises on rank 0 is raised on every rank: the others would wait otherwise."""
        return of_first(lambda: self.reflector.propose(current, feedback, evidence, avoid, seed))

    def check(self) -> None:
        """See Reflector.check. The reflector is asked at once: call it on one rank, through `of_first`."""
        self.reflector.check()
