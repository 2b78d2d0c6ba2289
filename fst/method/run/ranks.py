"""Training on several processes (`accelerate launch`, torchrun): which one does what, and what all must agree on.

Every process runs the whole program on its share of a step's rows. Only rank 0 runs fast rounds and evaluations; it
sends the results to the others, and starts the engine's server if there is one. Only rank 0 writes the run folder; the
others record to a temporary folder and read rank 0's checkpoints, so the run folder must be on storage that all can
see. If the model is sharded over the processes (`sharded`), every forward pass needs all of them, so fast rounds and
evaluations run identically on every rank, from the same seeds and weights.
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
    """Raised when the processes of one training run have different values of what must be the same for all."""

    exit_code = 3


def rank() -> int:
    """This process's rank; 0 if it runs without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """The number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharded() -> bool:
    """Whether the launcher shards the model over the processes: FSDP, or stage 3 of DeepSpeed."""
    told = os.environ.get
    return told("ACCELERATE_USE_FSDP") == "true" or (
        told("ACCELERATE_USE_DEEPSPEED") == "true" and told("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    )


def everyones(items: list[T]) -> list[T]:
    """Gather the items of all ranks, in rank order, on every rank."""
    if world() == 1:
        return items
    gathered: list[Any] = [None] * world()
    torch.distributed.all_gather_object(gathered, items, group=_group())
    return [item for of_rank in gathered for item in of_rank]


def of_first(work: Callable[[], T]) -> T:
    """Do `work` on rank 0 only, while the others wait. Every rank returns its result or raises its exception."""
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
        return  # the engine gets ready at its first request
    engine.join(of_first(engine.ready))


def wait() -> None:
    """Block until every rank has called this."""
    if world() > 1:
        torch.distributed.barrier(group=_group())


def agree(value: Any, what: str) -> None:
    """Compare a value across the ranks. Raises RanksDisagree if it differs; `what` names it in the message."""
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
    """The process group of all ranks, over gloo, as objects need no GPU. Its timeout is long, so that the other ranks
    wait for rank 0 as long as it works; a rank that dies ends the wait."""
    return torch.distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=30))


def _sendable(exc: Exception) -> Exception:
    """Return the exception, or a RuntimeError with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:
        return RuntimeError(f"rank 0 failed: {type(exc).__name__}: {exc}")
    return exc


class FirstAsks:
    """Shares a non-deterministic reflector (a model behind an endpoint) between ranks that all run the fast rounds:
    rank 0 asks it, and every rank uses the answer."""

    def __init__(self, reflector: Reflector) -> None:
        self.reflector = reflector

    @property
    def usage(self) -> Any:
        return getattr(self.reflector, "usage", None)

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        """See Reflector.propose. An exception on rank 0 is raised on every rank, as the others would wait otherwise."""
        return of_first(lambda: self.reflector.propose(current, feedback, evidence, avoid, seed))

    def check(self) -> None:
        """See Reflector.check. Asks the reflector on this rank: call it through `of_first`."""
        self.reflector.check()
