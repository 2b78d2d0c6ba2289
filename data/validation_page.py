"""Findings to read: a text for the terminal, a page for the browser. Equal findings give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.files import write_atomic
from data.validation_gx import Finding

WIDTH = 110
_ROWS_IN_TEXT = 20
_WIDEST_KEY = 36  # of the columns that say which row it is, so that none pushes out another
_RANK = {"critical": 0, "warning": 1, "info": 2}
_TITLES = {"raw": "Problem file", "prepared": "Prepared data", "rollouts": "Rollout log"}


@dataclass(frozen=True)
class Validation:
    """What a suite found in a subject of so many rows; findings in the suite's order."""

    suite: str
    subject: str
    rows: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no critical expectation failed."""
        return all(finding.success or finding.severity != "critical" for finding in self.findings)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Failed expectations that do not stop the pipeline."""
        return tuple(finding for finding in self.failing if finding.severity != "critical")

    @property
    def failing(self) -> tuple[Finding, ...]:
        """Failed expectations, the gravest first."""
        failed = [finding for finding in self.findings if not finding.success]
        return tuple(sorted(failed, key=lambda finding: _RANK[finding.severity]))

    @property
    def title(self) -> str:
        return f"{_TITLES[self.suite]}: {self.subject}"

    def as_dict(self) -> dict[str, Any]:
        """For a JSON document: no time, no path, no run id."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            finding["failed_rows"] = list(finding["failed_rows"])
        facts = {"suite": self.suite, "subject": self.subject, "rows": self.rows, "ok": self.ok}
        return {**facts, "findings": findings}


def table(validation: Validation) -> str:
    """The failed expectations with their rows, as plain text of at most 110 columns."""
    lines = [f"{validation.title} - {verdict(validation)}, {validation.rows:,} rows"]
    for finding in validation.failing:
        lines += ["", f"{finding.severity.upper()}  {finding.expectation}  ({finding.observed})"]
        if finding.failed_rows:
            lines += _text_rows(finding)
    return "\n".join(lines)


def verdict(validation: Validation) -> str:
    """In words: `2 critical, 1 warning`, or that all expectations hold."""
    warnings = len(validation.warnings)
    critical = len(validation.failing) - warnings
    parts = [f"{critical} critical"] if critical else []
    parts += [f"{warnings} warning{'s' if warnings > 1 else ''}"] if warnings else []
    return ", ".join(parts) or f"all {len(validation.findings)} expectations hold"


def write_page(validations: Sequence[Validation], path: Path) -> None:
    """One HTML file that needs nothing else: no script, no outside address. What failed comes first."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["visible"] = visible
    ordered = sorted(validations, key=lambda v: 0 if not v.ok else 1 if v.warnings else 2)
    html = env.get_template("validation.html.jinja").render(validations=ordered, verdict=verdict)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, html)


def visible(value: Any) -> str:
    """A value on one line, with what cannot be printed as its escape: a reader sees what is there."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _text_rows(finding: Finding) -> list[str]:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    columns = tuple(finding.failed_rows[0])
    for name in columns:
        grid.add_column(name, no_wrap=True, overflow="ellipsis", max_width=None if name == "value" else _WIDEST_KEY)
    for row in finding.failed_rows[:_ROWS_IN_TEXT]:
        grid.add_row(*(Text({None: "-", "": "(empty)"}.get(row[name], visible(row[name]))) for name in columns))
    console = Console(file=io.StringIO(), width=WIDTH - 4, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(grid)
    lines = ["    " + line.rstrip() for line in capture.get().splitlines()]
    more = finding.failed - min(len(finding.failed_rows), _ROWS_IN_TEXT)
    return [*lines, f"    ... and {more:,} more"] if more else lines
