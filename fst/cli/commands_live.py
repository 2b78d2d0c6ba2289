"""What the commands around live traffic do, one function a command."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path

from fst.cli.options import read_params
from fst.errors import DataError


def simulate(options: argparse.Namespace) -> None:
    """A scenario, sent."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from fst.traffic.scenario import load_scenario
    from fst.traffic.simulate import Recorder, Target, replay, summary

    scenario = load_scenario(options.scenario)
    recorder = Recorder(options.out)
    target = Target(options.url, os.environ.get(options.key_env, ""))
    with Progress(disable=options.quiet) as progress:
        bar = progress.add_task(options.scenario.stem, total=scenario.seconds)

        def heard(exchanged: object) -> None:
            recorder(exchanged)  # type: ignore[arg-type]
            progress.update(bar, completed=recorder.exchanges[-1].moment)

        asyncio.run(replay(scenario, target, heard))
    recorder.close()
    if recorder.exchanges and not any(one.status for one in recorder.exchanges):
        raise DataError(f"{options.url}: nobody answered there; start the gateway with `fst serve`")
    table = Table("traffic", "requests", "failed", "reward", "p50, ms", "p95, ms")
    for name, row in summary(recorder.exchanges).items():
        latency = (f"{1000 * row[key]:.0f}" for key in ("p50_s", "p95_s"))
        table.add_row(name, f"{row['requests']:.0f}", f"{row['failed']:.0f}", f"{row['reward']:.3f}", *latency)
    Console().print(table)
    print(f"written: {options.out}")


def ingest(options: argparse.Namespace) -> None:
    """Scored traffic as a dataset."""
    from fst.data.validation import require, table, validate_raw, write_page
    from fst.monitoring.collected import collected
    from fst.release.adaptation import FOLDER
    from fst.stages.places import Places
    from fst.traffic.problems import agreed, write_problems

    params, places = read_params(options), Places()
    domain = options.from_log
    pairs = agreed(
        collected(Path(params.traffic.folder), places.monitoring, domain, options.since), params.adapt.max_problems
    )
    file = write_problems(pairs, Path(FOLDER), domain)
    found, page = validate_raw(file), places.raw_page(file.stem)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page([found], page)
    require([found], page)
    print(table(found))
    if not options.no_dvc:
        done = subprocess.run(
            (sys.executable, "-P", "-m", "dvc", "add", "--quiet", str(file)), capture_output=True, text=True
        )
        if done.returncode:
            raise DataError(
                f"{file} is written, but DVC does not version it: {done.stderr.strip()}; --no-dvc leaves it so"
            )
    print(f"{len(pairs)} problems: {file}\nto train on it: fst train --data {file}")
