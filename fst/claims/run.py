"""All work of a plan, as many pieces at once as there are cores, under one progress view. What is done is kept."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fst.claims.plan import Size, Work
from fst.claims.work import do, is_done
from fst.config import Params
from fst.errors import FstError
from fst.lifeline import end_with_parent

AGAIN = "the same command goes on with what is left"


class ClaimsError(FstError):
    """A piece of work did not end."""

    exit_code = 3


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(works: Sequence[Work], params: Params, size: Size, folder: Path, jobs: int) -> None:
    """Do what is not done yet. What fails does not stop the rest; then raises ClaimsError naming it."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(params.model.threads))  # before a child loads torch
    waiting = [work for work in works if not is_done(work, folder)]
    text, shown = TextColumn("{task.description}"), TimeElapsedColumn()
    columns = (TextColumn("claims"), BarColumn(), MofNCompleteColumn(), shown, text)
    failed: dict[Work, str] = {}
    context = _children()
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        ProcessPoolExecutor(jobs, context, initializer=end_with_parent, max_tasks_per_child=1) as pool,
    ):
        task = bar.add_task("", total=len(works), completed=len(works) - len(waiting))
        going: dict[Future[str], Work] = {}
        while waiting or going:
            for work in [w for w in waiting if w.start in failed]:
                waiting.remove(work)
                failed[work] = "what it builds on failed"
            ready = [w for w in waiting if w.start is None or is_done(w.start, folder)]
            for work in ready[: jobs - len(going)]:
                waiting.remove(work)
                going[pool.submit(_do, work, params, size, folder)] = work
            bar.update(task, description=", ".join(w.name for w in going.values()))
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                work = going.pop(future)
                try:
                    why = future.result()
                except BrokenProcessPool as exc:
                    raise ClaimsError(f"{work.name}: a process was killed from outside; {AGAIN}") from exc
                bar.advance(task)
                if why:
                    failed[work] = why
    if failed:
        first = next(iter(failed))
        raise ClaimsError(
            f"{len(failed)} of {len(works)} pieces of work failed, first {first.name}: {failed[first]}; {AGAIN}"
        )


def _children() -> BaseContext:
    """Where each piece of work gets a process of its own. On Linux these are forks of one that has imported what they
    need and done nothing else; elsewhere each imports it anew, which takes seconds."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fst.claims.work"])
    return context


def _do(work: Work, params: Params, size: Size, folder: Path) -> str:
    """In the child: what went wrong, as text; errors of libraries do not always travel."""
    import torch

    torch.set_num_threads(params.model.threads)
    try:
        do(work, params, size, folder)
    except FstError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return ""
