"""The report of one or many runs: a self-contained page, its figures and a summary a program can read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fst.errors import RecordError
from fst.files import write_atomic
from fst.release.history import ReleaseView
from fst.report.figures import draw_figures
from fst.report.live import LiveView
from fst.report.page import Shown, amount, decimal, every, measured, render_page
from fst.report.wording import mean_at, quantity, unequal
from fst.runs.view import ARM_NAMES, RunView, load_run, mean
from fst.types import ARMS

Grouped = dict[str, dict[str, list[RunView]]]


def build_report(
    run_dirs: list[Path], out: Path, title: str, releases: Sequence[ReleaseView] = (), live: LiveView | None = None
) -> Path:
    """Write `out/index.html`, `out/summary.json` and the figures as PNG files; returns the page's path.

    Runs may differ in arm, domain and seed, and may be unfinished. Every file is replaced atomically,
    the page last, so a reader never meets a page whose figures are not there yet.

    Raises RecordError: no run given, a folder that is no run, or two runs of one domain, arm and seed.
    """
    if not run_dirs:
        raise RecordError("No runs to report: pass at least one run folder (runs/<id>).")
    views = [load_run(run_dir) for run_dir in run_dirs]
    grouped, summary = group(views), summarize(views)
    if releases:
        summary["releases"] = [release.as_dict() for release in releases]
    if live:
        summary["live"] = live.figures
    out.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(grouped)
    for figure in [*figures, *([live.figure] if live else [])]:
        for theme, png in figure.png.items():
            write_atomic(out / figure.file(theme), png)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(out / "summary.json", text.encode())
    page = out / "index.html"
    write_atomic(page, render_page(title, Shown(grouped, figures, releases, live), summary).encode("utf-8", "replace"))
    return page


def group(views: Iterable[RunView]) -> Grouped:
    """Domain -> arm -> runs by seed; domains in the order given, arms in the project's order."""
    found: dict[tuple[str, str, int], RunView] = {}
    for view in views:
        key = (view.domain, view.arm, view.seed)
        if key in found:
            raise RecordError(
                f"{found[key].path} and {view.path} are both arm {view.arm}, seed {view.seed} of {view.domain}: "
                "pass one of them, or make one report each."
            )
        found[key] = view
    return {
        domain: {
            arm: sorted((v for v in found.values() if (v.domain, v.arm) == (domain, arm)), key=lambda v: v.seed)
            for arm in ARMS
            if any((v.domain, v.arm) == (domain, arm) for v in found.values())
        }
        for domain in dict.fromkeys(domain for domain, _, _ in found)
    }


def summarize(views: Sequence[RunView]) -> dict[str, Any]:
    """The contract of summary.json: means over seeds; null where a run has not got that far."""
    return {
        "domains": {
            domain: {"arms": {arm: _arm_summary(runs) for arm, runs in arms.items()}}
            for domain, arms in group(views).items()
        },
        "seeds": sorted({view.seed for view in views}),
        "commit": ", ".join(sorted({str(view.config["commit"]) for view in views})),
        "versions": _versions(views),
    }


def closing_table(run_views: Sequence[RunView]) -> Table:
    """The closing table for the terminal: one line a domain and arm, means over seeds."""
    what = quantity(run_views)
    caption = [f"{what} on test problems, {mean_at(run_views)}; ± one standard error; * not finished: validation"]
    caption += [said for domain in group(run_views).values() if (said := unequal(every(domain)))]
    table = Table(caption="\n".join(caption), caption_justify="left")
    table.add_column("domain", overflow="fold", min_width=8)
    table.add_column("arm", no_wrap=True)
    for name in (what, "problems", "KL", "train", "fast", "eval", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for domain, block in summarize(run_views)["domains"].items():
        table.add_section()
        for index, (arm, row) in enumerate(block["arms"].items()):
            table.add_row(
                Text(domain if index == 0 else ""),
                ARM_NAMES[arm],
                _with_error(row) + ("" if row["finished"] else "*"),
                "/".join(map(str, row["problems"])) or "n/a",
                decimal(row["kl"]),
                *(amount(row["rollouts"][purpose]) for purpose in ("train", "fast", "eval")),
                amount(row["seconds"]),
            )
    return table


def _arm_summary(runs: list[RunView]) -> dict[str, Any]:
    results = [run.result for run in runs]
    errors = [result.stderr for result in results]
    known = [error for error in errors if error is not None]
    return {
        "accuracy": mean(result.accuracy for result in results),
        "accuracy_by_seed": {str(run.seed): run.result.accuracy for run in runs},
        "binary": all(run.binary for run in runs),
        "problems": sorted({run.problems for run in runs if run.problems is not None}),
        "stderr": math.hypot(*known) / len(known) if known and len(known) == len(errors) else None,
        "kl": mean(result.kl for result in results),
        "rollouts": {
            purpose: _whole(mean(result.rollouts[purpose] for result in results))
            for purpose in ("train", "fast", "eval")
        },
        "seconds": mean(result.seconds for result in results),
        "finished": all(run.finished for run in runs),
    }


def _with_error(row: dict[str, Any]) -> str:
    error = row["stderr"] if row["finished"] else None
    return measured(row["accuracy"], row["binary"]) + (
        "" if error is None else f" ± {measured(error, row['binary']).removesuffix('%')}"
    )


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value == int(value) else value


def _versions(views: Iterable[RunView]) -> dict[str, str]:
    """Package versions; runs that disagree are shown with all of theirs."""
    seen: dict[str, set[str]] = {}
    for view in views:
        for package, version in view.config["versions"].items():
            seen.setdefault(package, set()).add(str(version))
    return {package: " / ".join(sorted(found)) for package, found in sorted(seen.items())}
