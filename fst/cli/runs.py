"""Runs: train one arm, train all arms, measure a run again, and report on runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fst.cli.options import (
    PARAMS_FILE,
    SETTINGS,
    TRAINING,
    Settings,
    Several,
    TrainingSettings,
    Verifier,
    check_spec,
    lines,
    terminal,
)
from fst.commandline import goes_on
from fst.errors import ConfigError
from fst.types import COMPARED, AnswerMode, Arm, scored_with, with_answer

DOMAIN = "lab/sort_desc+add_one"
TITLE = "Fast-Slow Training"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Problems:
    """What is trained on."""

    domain: str | None = None
    """Domain spec, see below; lab/sort_desc+add_one if not given."""
    data: Path | None = None
    """A JSONL file of your own problems, in place of --domain."""
    verifier: Verifier = None
    answer: AnswerMode | None = None
    """How the answer is found in a response, see docs/answers.md; the default of the domain's family if not given."""

    def spec(self) -> str:
        """The domain's spec. Raises ConfigError when both are given, and as `check_spec` does."""
        if self.domain and self.data:
            raise ConfigError("--domain, --data: give one of the two")
        spec = scored_with(f"jsonl:{self.data}" if self.data else self.domain or DOMAIN, self.verifier or "")
        spec = with_answer(spec, self.answer or "")
        check_spec(spec)
        return spec


PROBLEMS = Problems()


@goes_on("the same command with --resume goes on from the last completed round")
def train(
    *,
    arm: Arm = "fst",
    problems: Problems = PROBLEMS,
    seed: int = 0,
    run: str | None = None,
    resume: bool = False,
    plan: bool = False,
    settings: TrainingSettings = TRAINING,
) -> None:
    """Train one arm on one domain.

    Everything is recorded under runs/<run>/: events, rollouts, checkpoints. Exit code 8: nothing was
    learned; the output says why.

    Example: fst train --arm fst --domain lab/sort_desc+add_one --seed 0
    Example: fst train --data my.jsonl --model Qwen/Qwen3-0.6B
    Example: fst train --data tickets.jsonl --verifier choice

    Args:
        arm: What learns: fst is both, rl the weights only, gepa the prompts only; rl_gepa the weights first and then
            the prompts, gepa_rl the other way round, on as many rollouts as fst; for distill, use `fst distill`.
        seed: Seed of all random draws.
        run: Name of the run folder; built from domain, arm and seed if not given.
        resume: Continue from the last completed round.
        plan: Only print what the run will need, computed from the model's configuration; nothing is trained.
    """
    spec, params = problems.spec(), settings.read()
    from rich.console import Console

    from fst.method.run import ranks
    from fst.method.run.runner import Job, plan_of, problems_of, run_job
    from fst.report.closing import closing, require_learning
    from fst.runs.view import load_run

    folder = settings.runs / (run or _run_name(spec, arm, seed))
    job = Job(arm, spec, seed, folder, params)
    if plan:
        found = plan_of(job, problems_of(job))
        lines([f"parameters  {settings.preset()}", *found.lines()])
        found.check()
        return
    if not settings.quiet and not ranks.rank():
        Console(stderr=True).print(f"parameters: {_preset(settings)}", highlight=False, markup=False, soft_wrap=True)
    run_job(job, resume, settings.quiet)
    if ranks.rank():
        return  # rank 0 has the record
    view = load_run(folder)
    lines(closing(view))
    require_learning([view])


@goes_on("the same command goes on from the last completed round")
def run(
    *,
    domain: tuple[str, ...] = (DOMAIN,),
    arms: Annotated[tuple[Arm, ...], Several] = COMPARED,
    seeds: Annotated[tuple[int, ...], Several] = (0,),
    out: Path = Path("reports/run"),
    settings: TrainingSettings = TRAINING,
) -> None:
    """Train fst, rl and gepa on each domain and seed, then write the report.

    An interrupted run is continued; a finished run with the same parameters is kept. Exit code 8: no run learned
    anything; the output says why.

    Example: fst run --seeds 0 1 2 --out reports/mine

    Args:
        domain: Domain spec; repeatable.
        arms: Arms to train, see `fst train --help`.
        seeds: Seeds, one run per domain, arm and seed.
        out: Folder of the report.
    """
    params = settings.read()
    for spec in domain:
        check_spec(spec)
    from fst.method.run.runner import Job, run_job
    from fst.report.build import build_report, closing_table
    from fst.report.closing import require_learning
    from fst.runs.view import load_run

    jobs = [
        Job(arm, spec, seed, settings.runs / _run_name(spec, arm, seed), params)
        for spec in domain
        for seed in seeds
        for arm in arms
    ]
    folders = [run_job(job, resume=True, quiet=settings.quiet) for job in jobs]
    page = build_report(folders, out, TITLE)
    console, views = terminal(), [load_run(folder) for folder in folders]
    console.print(closing_table(views))
    console.print(f"report: {page}", highlight=False)
    require_learning(views)


def evaluate(run: Path, /, *, split: Literal["validation", "test"] = "test", prompt: str | None = None) -> None:
    """Measure mean@n and KL of a run's last checkpoint, as JSON.

    It uses the run's own parameters and adds nothing to its records.

    Example: fst evaluate runs/lab-sort-desc-add-one-fst-s0 --split validation

    Args:
        run: A run folder.
        split: Held-out problems to answer.
        prompt: Evaluate under this prompt; the run's best if not given.
    """
    if not run.exists():
        raise ConfigError(f"{run}: no such run folder; a domain of params.yaml has `fst stage evaluate {run}`")
    from fst.method.run.runner import evaluate_run

    print(json.dumps(evaluate_run(run, split, prompt), indent=2))


def report(*folders: Path, out: Path = Path("reports/run"), title: str = TITLE, settings: Settings = SETTINGS) -> None:
    """Write the report of runs: an HTML page, PNG figures and summary.json.

    Without folders: all runs on the domains of params.yaml, the releases of the channel, and the closed loop.

    Example: fst report runs/* --out reports/mine

    Args:
        folders: Run folders, finished or not.
        out: Folder of the report.
        title: Title of the page.
    """
    for folder in folders:
        if not folder.exists():
            raise ConfigError(f"{folder}: no such run folder; name folders of runs, such as runs/*")
    from fst.report.build import build_report, closing_table
    from fst.runs.view import load_run

    console = terminal()
    chosen, releases, live = list(folders), [], None
    if not chosen:
        from fst.release.candidate import releases_of
        from fst.release.history import releases_table
        from fst.report.live import load_live
        from fst.stages.train import latest_runs
        from fst.stages.workspace import Workspace

        workspace = Workspace(settings.read())
        chosen, releases = latest_runs(workspace), releases_of(workspace)
        live = load_live(workspace.places.root / "reports" / "live" / "timeline.json")
        console.print(releases_table(releases))
    page = build_report(chosen, out, title, releases, live)
    console.print(closing_table([load_run(folder) for folder in chosen]))
    if live:
        console.print(live.headline, highlight=False)
    console.print(f"report: {page}", highlight=False)


def _preset(settings: TrainingSettings) -> str:
    """The parameters in force, and which others there are for a pretrained model that is given the lab's."""
    if settings.model and settings.params == PARAMS_FILE:
        return f"{settings.preset()} (the lab's settings; those for pretrained models are in params/, see --params)"
    return settings.preset()


def _run_name(domain: str, arm: str, seed: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', domain).strip('-')}-{arm}-s{seed}"
