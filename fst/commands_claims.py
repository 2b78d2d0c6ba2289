"""What `fst bench claims` does."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import time
from typing import Any

from rich.console import Console

from fst.errors import ConfigError
from fst.options import read_params


def bench_claims(options: argparse.Namespace) -> None:
    """Run what the claims need, judge them, write it all down."""
    from fst.claims.evidence import gather
    from fst.claims.judge import judge
    from fst.claims.page import table, write
    from fst.claims.plan import CLAIMS, DOMAINS, SIZES, plan
    from fst.claims.run import cores, run_all

    params, size = read_params(options), SIZES[options.budget]
    claims = list(dict.fromkeys(options.claims or CLAIMS))
    domains, seeds = options.domains or DOMAINS[: size.domains], options.seeds or size.seeds
    if len(set(seeds)) != len(seeds) or len(set(domains)) != len(domains):
        raise ConfigError("--domains, --seeds: each only once")
    works = plan(claims, domains, seeds)
    folder, started = options.runs / size.name, time.monotonic()
    run_all(works, params, size, folder, options.jobs or cores())
    evidence = gather(works, folder)
    rows = judge(claims, domains, evidence)
    page = write(options.out, rows, evidence, _about(options.budget, seeds, time.monotonic() - started))
    Console().print(table(rows))
    print(f"report: {page}")


def _about(budget: str, seeds: Any, seconds: float) -> dict[str, Any]:
    """Where the figures come from."""
    from fst.origin import commit
    from fst.runner import VERSIONED

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONED)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return {
        "budget": budget,
        "seeds": ", ".join(map(str, seeds)),
        "commit": commit(),
        "versions": versions,
        "machine": machine,
        "minutes of this call": round(seconds / 60, 1),
    }
