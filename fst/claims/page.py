"""Figures, table and page of the claims. The page reads offline; its own script draws the curves, with every seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from rich.table import Table

from fst.claims.evidence import Evidence, Run
from fst.claims.judge import sum_up
from fst.claims.plan import CLAIMS, COLD
from fst.claims.rows import Row
from fst.files import document, write_atomic
from fst.report.figures import COLOURS, INK, LINES, MARKERS, MEMBER, PAPER, Figure, draw_one, draw_row
from fst.runs.view import ARM_NAMES


def write(out: Path, rows: Sequence[Row], evidence: Evidence, about: dict[str, Any]) -> Path:
    """claims.json (verdicts and rows), runs.json (every seed, curve and budget), about.json (commit, versions,
    machine), the figures, and index.html, whose path is returned."""
    out.mkdir(parents=True, exist_ok=True)
    runs = [run.as_dict() for run in evidence.runs]
    verdicts = sum_up(rows)
    judged = {"verdicts": [one.as_dict() for one in verdicts], "rows": [row.as_dict() for row in rows]}
    write_atomic(out / "claims.json", document(judged))
    write_atomic(out / "runs.json", json.dumps(runs, separators=(",", ":")) + "\n")
    write_atomic(out / "about.json", document(about))
    for figure in figures(rows, evidence):
        for theme, png in figure.png.items():
            write_atomic(out / figure.file(theme), png)
    env = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    shown = {
        "claims": {key: (says, [row for row in rows if row.claim == key]) for key, says in CLAIMS.items()},
        "about": about,
        "colours": COLOURS,
        "paper": PAPER,
        "names": ARM_NAMES,
        "verdict": verdict,
        "verdicts": verdicts,
        "told": told,
        "figure_of": figure_of,
        "data": {"runs": runs, "names": ARM_NAMES},
    }
    env.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": False}
    write_atomic(out / "index.html", env.get_template("page.html.jinja").render(**shown))
    return out / "index.html"


def figure_of(row: Row) -> str:
    """Ours with its interval, in the row's unit."""
    if row.ours is None:
        return "not defined"

    def one(x: float) -> str:
        return f"{100 * x:+.1f}" if row.unit == "points" else f"{x:.2f}" if x < 10 else f"{x:,.0f}"

    span = "" if row.low is None or row.high is None else f" [{one(row.low)}, {one(row.high)}]"
    return f"{one(row.ours)}{span}{'x' if row.unit == 'x' else ''}"


def verdict(row: Row) -> str:
    """Of a row that has a target."""
    return told(row.holds) if row.target else ""


def told(holds: bool | None) -> str:
    return "cannot be told" if holds is None else "holds" if holds else "does not hold"


def tables(rows: Sequence[Row]) -> tuple[Table, Table]:
    """For the terminal: the rows with a target (the page has all), and the claims as a whole."""
    found = Table("claim", "domain", "measure", "ours [95%]", "paper", "target", "verdict")
    for row in (row for row in rows if row.target):
        facts = (row.claim, row.domain, row.measure, figure_of(row), row.paper, row.target)
        found.add_row(*facts, _coloured(verdict(row)))
    whole = Table("claim", "", "rows that hold", "verdict")
    for one in sum_up(rows):
        whole.add_row(one.claim, CLAIMS[one.claim], f"{one.held} of {one.rows}", _coloured(told(one.holds)))
    return found, whole


def _coloured(says: str) -> str:
    colours = {"holds": "green", "does not hold": "red", "cannot be told": "yellow", "": "dim"}
    return f"[{colours[says]}]{says}[/]"


def figures(rows: Sequence[Row], evidence: Evidence) -> list[Figure]:
    """What the paper draws: accuracy over rollouts, KL over accuracy, a continual run, transfers."""
    found: list[Figure] = []
    kinds = {
        "run": ("learning", "accuracy", "all rollouts", "validation accuracy, mean@4"),
        "kl": ("accuracy", "kl", "validation accuracy, mean@4", "KL from the base, nats a token"),
        "transfer": ("learning", "accuracy", "rollouts on task B", "validation accuracy, mean@4"),
        "continual": ("learning", "accuracy", "all rollouts", "validation accuracy on the task of the moment"),
    }
    for kind, (x, y, across, up) in kinds.items():
        groups: dict[str, list[Run]] = {}
        for run in evidence.runs:
            if run.work.kind == ("run" if kind == "kl" else kind):
                groups.setdefault(run.work.domain, []).append(run)
        for domain, runs in groups.items():
            title = f"{domain}: {up} over {across}"
            found.append(draw_one((domain, kind, _stem(domain)), title, "", title, _lines(runs, x, y, across, up)))
        panels = {_shown(domain): _lines(runs, x, y, across, up) for domain, runs in groups.items() if domain != COLD}
        if len(panels) > 1:
            found.append(draw_row(("", kind, "all"), f"{up} over {across}, every domain", panels))
    return found


def _shown(domain: str) -> str:
    return domain.removeprefix("lab/")


def _lines(runs: Sequence[Run], x: str, y: str, across: str, up: str) -> Any:
    """Every seed thin, an arm's seeds in its colour; of transfers, the arm that the weights come from."""

    def draw(axes: Axes, theme: str) -> None:
        seen: set[str] = set()
        for run in runs:
            start = run.work.start.arm if run.work.start else run.work.arm
            base = run.work.kind == "transfer" and run.work.start is None
            colour = MEMBER[theme] if base else COLOURS[theme][start]
            name = "from the base" if base else f"from {start}" if run.work.start else ARM_NAMES[start]
            style: dict[str, Any] = {"ls": "-" if base else LINES[start], "marker": "" if base else MARKERS[start]}
            xs, ys = [getattr(p, x) for p in run.curve], [getattr(p, y) for p in run.curve]
            label = name if name not in seen else None
            axes.plot(xs, ys, color=colour, lw=1.2, ms=2.5, alpha=0.75, label=label, **style)
            seen.add(name)
        axes.set(xlabel=across, ylabel=up)
        for axis, key in ((axes.xaxis, x), (axes.yaxis, y)):
            if key == "accuracy":
                axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.tick_params(labelcolor=INK[theme])

    return draw


def _stem(domain: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in domain).strip("-")
