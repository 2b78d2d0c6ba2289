"""`fst distill`: move a run's evolved prompt into its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fst.cli.options import lines
from fst.commandline import goes_on


@goes_on("the same command with --resume goes on from the last completed round")
def distill(
    run: Path,
    /,
    *,
    out: Path | None = None,
    cycles: int | None = None,
    resume: bool = False,
    quiet: bool = False,
    set: Annotated[tuple[str, ...], Parameter(metavar="KEY=VALUE")] = (),
) -> None:
    """Move a run's evolved prompt into its weights, so that the seed prompt does as well.

    A long prompt costs tokens in every answer. The run's policy with its best prompt becomes the teacher, frozen; a
    copy of its adapter learns, under the seed prompt, to give each token of its own answers the probabilities that the
    teacher gives them (KL, on-policy). Parameters and problems are the run's.

    The result is a run folder like any other, arm `distill`: `fst report` and `fst evaluate` read it. Its closing lines
    are kept in distilled.json: accuracy with the evolved prompt, with the seed prompt before and after, the remaining
    KL, and the tokens saved per answer. In the pipeline, a domain that starts from such a bundle with
    train.arm=distill is evaluated, gated and released like any other.

    Example: fst distill runs/lab-sort-desc-add-one-fst-s0
    Example: fst distill runs/tickets --cycles 4 --set slow.learning_rate=5e-4

    Args:
        run: A finished run that evolved a prompt (arm fst, gepa, rl_gepa or gepa_rl).
        out: Folder of the new run; the run's own with -distilled appended if not given.
        cycles: Rounds of loop.steps_per_cycle steps; as many as the run's if not given.
        resume: Continue from the last completed round.
        quiet: Show no progress.
        set: Override one of the run's parameters; repeatable.
    """
    from fst.method.distill.job import distilled, job_of
    from fst.method.run.runner import run_job

    folder = out or run.with_name(f"{run.name}-distilled")
    job = job_of(run, folder, [*set, *([] if cycles is None else [f"loop.cycles={cycles}"])])
    run_job(job, resume, quiet)
    lines([*distilled(folder).lines(), f"run: {folder}"])
