"""What `fst bench claims` does."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fst.cli.options import read_params
from fst.errors import ConfigError

WIDTH = 180
REPORTS = Path("reports/claims")
FULL = ("full", "ablations")  # sizes whose results lie there, and are kept with the project


def bench_claims(options: argparse.Namespace) -> None:
    """Run what the claims need, judge them, write it all down."""
    from fst.claims.evidence import gather, made
    from fst.claims.judge import judge
    from fst.claims.page import tables, write
    from fst.claims.plan import CLAIMS, DOMAINS, SIZES, plan
    from fst.claims.run import cores, run_all

    params, size = read_params(options), SIZES[options.budget]
    if options.rollouts is not None:
        if options.rollouts < params.rollouts_per_step:
            raise ConfigError(f"--rollouts {options.rollouts}: one RL step takes {params.rollouts_per_step}")
        size = size.scaled(options.rollouts)
    claims = list(dict.fromkeys(options.claims or CLAIMS))
    domains, seeds = options.domains or DOMAINS[: size.domains], options.seeds or size.seeds
    if len(set(seeds)) != len(seeds) or len(set(domains)) != len(domains):
        raise ConfigError("--domains, --seeds: each only once")
    works = plan(claims, domains, seeds)
    out = _check(options, domains, size.name)
    folder = options.runs / size.name
    run_all(works, params, size, folder, options.jobs or cores())
    evidence = gather(works, folder)
    rows = judge(claims, domains, evidence)
    page = write(out, rows, evidence, _about(size.name, seeds, made(works, folder)))
    console().print(*tables(rows))
    print(f"report: {page}")


def _check(options: argparse.Namespace, domains: Sequence[str], size: str) -> Path:
    """What would otherwise be found out after hours. Returns the folder for the results. Raises FstError."""
    from fst.data.domains import load_domain
    from fst.data.types import SplitSizes

    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: at least 1")
    for spec in domains:
        load_domain(spec, SplitSizes(1, 1, 1), 0)
    out: Path = options.out or (REPORTS if size in FULL else REPORTS / size)
    for option, folder in (("runs", options.runs), ("out", out)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"--{option} {folder}: cannot be made a folder ({exc.strerror})") from exc
    return out


def console() -> Console:
    """Of the terminal's width; wide where the output goes into a file."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _about(budget: str, seeds: Sequence[int], made: dict[str, str]) -> dict[str, str]:
    """Where the figures come from."""
    from fst.runs.origin import commit

    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    told = {"budget": budget, "seeds": ", ".join(map(str, seeds))}
    return {**told, **made, "judged by commit": commit(), "machine": machine}


def bench_ablations(options: argparse.Namespace) -> None:
    """FST with one thing changed."""
    from fst.claims.ablations import DOMAINS, LEVEL, SIZES, outcomes, plan
    from fst.claims.evidence import gather, made
    from fst.claims.run import cores, run_all
    from fst.files import document, write_atomic

    params, size = read_params(options), SIZES[options.budget]
    domains, seeds = options.domains or DOMAINS[: size.domains], options.seeds or size.seeds
    out = _check(options, domains, size.name)
    works, folder = plan(domains, seeds), options.runs / size.name
    run_all(works, params, size, folder, options.jobs or cores())
    found = outcomes(domains, gather(works, folder))
    about = _about(options.budget, seeds, made(works, folder))
    write_atomic(out / "ablations.json", document({"about": about, "outcomes": [o.as_dict() for o in found]}))
    table = Table("variant", "domain", "accuracy [95%]", "KL", f"rollouts to {LEVEL:.0%}")
    for one in found:
        span = "" if one.low is None else f" [{one.low:.1%}, {one.high:.1%}]"
        spent = "never" if one.rollouts is None else f"{one.rollouts:,.0f} ({one.reached} of {len(one.seeds)} seeds)"
        table.add_row(one.variant, one.domain, f"{one.accuracy:.1%}{span}", f"{one.kl:.3f}", spent)
    console().print(table)
