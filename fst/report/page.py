"""The report's page: what the template shows, computed here; how it looks, in page.html.jinja.

Everything that comes from a run (prompts, feedback, domain names) is escaped by the template engine,
and the page carries a policy that forbids scripts and every outside address.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fst.release.history import ReleaseView, arrivals
from fst.report.figures import COLOURS, MEMBER, PAPER, Figure
from fst.report.live import LiveView
from fst.report.wording import mean_at, quantity, unequal
from fst.runs.view import ARM_NAMES, PromptView, RunView, mean, mean_curve

Arms = dict[str, list[RunView]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """A prompt in the lineage tree, under its first parent; `gist` is the first line that its parent lacks, the
    first new example of a demonstration."""

    prompt: PromptView
    gist: str
    children: tuple[Node, ...]


@dataclass(frozen=True)
class Shown:
    """What a page is about: runs by domain and arm, their figures; a project's releases, and its closed loop."""

    grouped: dict[str, Arms]
    figures: Sequence[Figure]
    releases: Sequence[ReleaseView] = ()
    live: LiveView | None = None


def render_page(title: str, shown: Shown, summary: Row) -> str:
    """The page as one HTML text, images included as data URIs."""
    grouped, figures, releases = shown.grouped, shown.figures, shown.releases
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(measured=measured, percent=percent, amount=amount, decimal=decimal, data_uri=data_uri)
    domains = [
        {
            "spec": domain,
            "headline": headline(summary["domains"][domain]["arms"], arms),
            "quantity": quantity(every(arms)),
            "mean_at": mean_at(every(arms)),
            "unequal": unequal(every(arms)),
            "binary": all(run.binary for run in every(arms)),
            "arms": summary["domains"][domain]["arms"],
            "figures": [f for f in figures if f.domain == domain and not f.run],
            "cells": four_cells(arms),
            "lineages": [
                {"run": run, "roots": lineage_tree(run.prompts), "figure": _figure_of(run, figures)}
                for runs in arms.values()
                for run in runs
                if run.prompts and (run.arm != "rl" or len(run.prompts) > 1)
            ],
            "runs": [run for runs in arms.values() for run in runs],
        }
        for domain, arms in grouped.items()
    ]
    runs = [run for arms in grouped.values() for run in every(arms)]
    return env.get_template("page.html.jinja").render(
        title=title,
        live=shown.live,
        releases=releases,
        arrived=arrivals(releases),
        domains=domains,
        summary=summary,
        runs=runs,
        params=_params(runs),
        names=ARM_NAMES,
        colours=COLOURS,
        paper=PAPER,
        member=MEMBER,
    )


def headline(rows: dict[str, Row], arms: Arms) -> str:
    """What the domain's numbers say; nothing here but what was measured. The two arms'
    speed is compared only when both have finished."""
    scored = {arm: row for arm, row in rows.items() if row["accuracy"] is not None}
    if not scored:
        return "No evaluation has been written yet."
    done = any(row["finished"] for row in scored.values())
    scores = [
        f"{ARM_NAMES[arm].lower()} {measured(row['accuracy'], row['binary'])}"
        + (" (unfinished, on validation)" if done and not row["finished"] else "")
        for arm, row in scored.items()
    ]
    runs = every(arms)
    what, binary, differ = quantity(runs), all(run.binary for run in runs), unequal(runs)
    said = f"{f'Test {what}' if done else f'Validation {what} so far'}: {', '.join(scores)}."
    if differ:
        return f"{said} {differ}"
    compared = all(arm in rows and rows[arm]["finished"] for arm in ("fst", "rl"))
    found = efficiency(arms) if compared else None
    if found is None:
        return said
    reached, needed, target = found
    if reached is None:
        return f"{said} Fast-slow has not reached slow only's best validation {what} ({measured(target, binary)})."
    return (
        f"{said} Fast-slow first reached slow only's best validation {what} ({measured(target, binary)}) after "
        f"{amount(reached)} learning rollouts; slow only took {amount(needed)}, {needed / reached:.1f} times as many."
    )


def every(arms: Arms) -> list[RunView]:
    """The runs of all arms."""
    return [run for runs in arms.values() for run in runs]


def efficiency(arms: Arms) -> tuple[float | None, float, float] | None:
    """(rollouts fst took, rollouts rl took, the accuracy): when each mean validation curve first reaches the
    running maximum of rl (claim C1). The first is None when fst has not reached it; None altogether when an
    arm has no curve or the accuracy was there before any learning, where no ratio exists."""
    fst, rl = mean_curve(arms.get("fst", [])), mean_curve(arms.get("rl", []))
    if not fst or not rl:
        return None
    target = max(point.accuracy for point in rl)
    needed = next(point.learning for point in rl if point.accuracy >= target)
    reached = next((point.learning for point in fst if point.accuracy >= target), None)
    return (reached, needed, target) if needed and reached != 0 else None


def four_cells(arms: Arms) -> list[Row]:
    """Per arm {base, trained} weights x {seed, evolved} prompt, means over seeds; `heat` in [0, 1] is the
    share of the domain's best cell."""
    tables: list[Row] = []
    for arm, runs in arms.items():
        cells = [run.cells for run in runs if run.cells]
        if cells:
            values = {
                f"{weights}/{prompt}": mean(cell.get(f"{weights}/{prompt}") for cell in cells)
                for weights in ("base", "trained")
                for prompt in ("seed", "evolved")
            }
            tables.append({"arm": arm, "values": values, "seeds": len(cells)})
    top = max((v for table in tables for v in table["values"].values() if v is not None), default=0.0) or 1.0
    for table in tables:
        table["heat"] = {key: (value or 0.0) / top for key, value in table["values"].items()}
    return tables


def lineage_tree(prompts: Sequence[PromptView]) -> tuple[Node, ...]:
    """Prompts nested under their first parent; built youngest first, since parents come before children."""
    children: dict[str, list[Node]] = {}
    texts = {prompt.id: prompt.text for prompt in prompts}
    for prompt in reversed(prompts):
        known = texts[prompt.parents[0]].splitlines() if prompt.parents else []
        lines = [line for line in prompt.text.splitlines() if line.strip()]
        gist = next(
            (line for line in lines if line not in (*known, "Examples:")), lines[0] if lines else "(empty prompt)"
        )
        node = Node(prompt, gist, tuple(reversed(children.get(prompt.id, []))))
        children.setdefault(prompt.parents[0] if prompt.parents else "", []).append(node)
    return tuple(reversed(children.get("", [])))


def measured(value: float | None, binary: bool) -> str:
    """A mean of rewards: a share of right answers where all are 0 or 1, else as it is."""
    return percent(value) if binary or value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}%"


def amount(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _figure_of(run: RunView, figures: Sequence[Figure]) -> Figure | None:
    return next((f for f in figures if f.run == f"{run.arm}-{run.seed}" and f.domain == run.domain), None)


def _params(runs: Sequence[RunView]) -> list[Row]:
    """Each distinct set of parameters once, with the runs that used it."""
    seen: dict[str, list[str]] = {}
    for run in runs:
        text = json.dumps(run.config["params"], indent=2, ensure_ascii=False, sort_keys=True)
        seen.setdefault(text, []).append(run.name)
    return [{"text": text, "runs": names} for text, names in seen.items()]
