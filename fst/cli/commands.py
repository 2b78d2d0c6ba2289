"""What each command of the CLI does, one function a command. Heavy imports happen inside, so --help is quick."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fst.cli.options import DEFAULT_ARM, DEFAULT_DOMAIN, read_params, refuse_given
from fst.errors import ConfigError

if TYPE_CHECKING:
    from fst.types import Arm


RUNS = Path("runs")


def _run_name(domain: str, arm: str, seed: int) -> str:
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', domain).strip('-')}-{arm}-s{seed}"


def train(options: argparse.Namespace) -> None:
    """One arm on one domain; with a name, the stage of that domain."""
    from fst.cli.commands_pipeline import train_stage
    from fst.method import ranks
    from fst.method.runner import Job, run_job, summary_of

    if options.name is not None:
        return train_stage(options)
    domain = f"jsonl:{options.data}" if options.data else options.domain or DEFAULT_DOMAIN
    arm: Arm = options.arm or DEFAULT_ARM
    seed = options.seed or 0
    folder = (options.runs or RUNS) / (options.run or _run_name(domain, arm, seed))
    run_job(Job(arm, domain, seed, folder, read_params(options)), options.resume, options.quiet)
    if ranks.rank():
        return  # rank 0 has the record
    end = summary_of(folder)
    rollouts = end["rollouts"]
    Console().print(
        f"[bold]{arm}[/] on {domain}: test accuracy {end['accuracy']:.3f} (± {end['stderr']:.3f}), "
        f"KL {end['kl']:.4f} nats a token; rollouts {rollouts['train']} training, {rollouts['fast']} fast, "
        f"{rollouts['eval']} evaluation; {end['seconds']:.0f} s of learning.\n"
        f"best prompt: {end['prompts'][0]!r}\nrecords: {folder}",
        highlight=False,
    )


def run(options: argparse.Namespace) -> None:
    """All arms, then the report. Finished runs of the same parameters are kept."""
    from fst.method.runner import Job, run_job
    from fst.report.build import build_report, closing_table
    from fst.runs.view import load_run

    params, runs = read_params(options), options.runs or RUNS
    folders = []
    for domain in options.domain or [DEFAULT_DOMAIN]:
        for seed in options.seeds:
            for arm in options.arms:
                folder = runs / _run_name(domain, arm, seed)
                folders.append(run_job(Job(arm, domain, seed, folder, params), resume=True, quiet=options.quiet))
    page = build_report(folders, options.out, "Fast-Slow Training")
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print(closing_table([load_run(folder) for folder in folders]))
    console.print(f"report: {page}", highlight=False)


def report(options: argparse.Namespace) -> None:
    """A report from run folders, or from a project's runs and releases."""
    from fst.report.build import build_report, closing_table
    from fst.runs.view import load_run

    console = Console() if sys.stdout.isatty() else Console(width=110)
    folders, releases, live = options.folders, [], None
    if not folders:
        from fst.release.candidate import releases_of
        from fst.release.history import releases_table
        from fst.report.live import load_live
        from fst.stages.stages import Stages

        stages = Stages(read_params(options))
        folders, releases = stages.runs(), releases_of(stages)
        live = load_live(stages.places.root / "reports" / "live" / "timeline.json")
        console.print(releases_table(releases))
    page = build_report(folders, options.out, options.title, releases, live)
    console.print(closing_table([load_run(folder) for folder in folders]))
    if live:
        console.print(live.headline, highlight=False)
    console.print(f"report: {page}", highlight=False)


def evaluate(options: argparse.Namespace) -> None:
    """A run's last checkpoint, evaluated again, without a trace in the run; or the stage of a domain."""
    folder = Path(options.target)
    if not (folder / "config.json").exists() and options.target in read_params(options).domains:
        from fst.cli.commands_pipeline import evaluate_stage

        return evaluate_stage(options, options.target)
    if not folder.exists():
        known = ", ".join(read_params(options).domains) or "none"
        raise ConfigError(f"{options.target} is neither a run folder nor a domain of params.yaml, which has: {known}")
    from fst.method.runner import evaluate_run

    refuse_given(options, ("set",), "a run is evaluated with the parameters that it was made with")
    result = evaluate_run(folder, options.split or "test", options.prompt)
    print(json.dumps(result, indent=2))


def doctor(options: argparse.Namespace) -> None:
    """What is missing, and for what."""
    from fst.cli.doctor import diagnose, render

    Console().print(render(diagnose()))


def lab_base_build(options: argparse.Namespace) -> None:
    """Pretrain the lab's base model and write it with its checksums."""
    import dataclasses

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from fst.models.lab.pretrain import PretrainConfig, pretrain
    from fst.models.policy import LAB_BASE

    config = PretrainConfig() if options.steps is None else dataclasses.replace(PretrainConfig(), steps=options.steps)
    out = options.out or LAB_BASE
    columns = (TextColumn("pretraining"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=config.steps)

        def show(step: int, following: float, induction: float, tokens: int) -> None:
            losses = f"following {following:.3f}  induction {induction:.3f}"
            text = f"step {step}/{config.steps}  {losses}  {tokens / 1e6:.1f}M tokens"
            bar.update(task, completed=step, description=text)

        facts = pretrain(config, out, show)
    print(json.dumps(facts))
    write_checksums(out)


def write_checksums(folder: Path) -> None:
    """SHA256SUMS over the model's files, in sha256sum's form."""
    from fst.files import write_atomic

    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    write_atomic(folder / "SHA256SUMS", "".join(lines))


def lab_base_card(options: argparse.Namespace) -> None:
    """The lab card as a Markdown table."""
    from fst.models.lab.card import measure_card
    from fst.models.policy import load_policy

    console = Console(stderr=True)
    card = measure_card(
        load_policy(options.model, max_new_tokens=16), report=lambda kind: console.print(f"measuring {kind} …")
    )
    print("| rule kind | rules | right instruction, sampled / greedy | generic |", end="")
    print(" induction, a sample | in 32 | in 32, as reflected |")
    print("|---|---|---|---|---|---|---|")
    for kind, row in card.items():
        print(
            f"| {kind} | {row['rules']} | {row['sampled']:.0%} / {row['greedy']:.0%} | {row['generic']:.1%} "
            f"| {row['induction']:.0%} | {row['induction_in_32']:.0%} | {row['induction_in_32_bagged']:.0%} |"
        )


def bench_speed(options: argparse.Namespace) -> None:
    """Ratios against plain TRL and plain generate, measured in one run."""
    from fst.bench.speed import speed

    for line in speed(options.steps):
        print(line)
