"""Findings as a text for the terminal and as a page for the browser. Equal findings give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from fst.data.validation.gx import Finding
from fst.files import write_atomic

WIDTH = 110
_ROWS_IN_TEXT = 20
_WIDEST_KEY = 36  # of the columns that say which row it is, so that none pushes out another
_RANK = {"critical": 0, "warning": 1, "info": 2}
_TITLES = {"raw": "Problem file", "prepared": "Prepared data", "rollouts": "Rollout log"}


@dataclass(frozen=True)
class Validation:
    """What a suite found in a subject: its number of rows, and the findings in the suite's order."""

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Validation:
        """What `as_dict` gave."""
        findings = (Finding(**{**one, "failed_rows": tuple(one["failed_rows"])}) for one in values["findings"])
        return cls(values["suite"], values["subject"], values["rows"], tuple(findings))


def table(validation: Validation) -> str:
    """The failed expectations with their rows, as plain text of at most 110 columns."""
    lines = [f"{validation.title} - {verdict(validation)}, {validation.rows:,} rows"]
    for finding in validation.failing:
        lines += ["", f"{finding.severity.upper()}  {finding.expectation}  ({finding.observed})"]
        if finding.failed_rows:
            lines += _text_rows(finding)
    return "\n".join(lines)


def verdict(validation: Validation) -> str:
    """The result in words: `2 critical, 1 warning`, or that all expectations hold."""
    warnings = len(validation.warnings)
    critical = len(validation.failing) - warnings
    parts = [f"{critical} critical"] if critical else []
    parts += [f"{warnings} warning{'s' if warnings > 1 else ''}"] if warnings else []
    return ", ".join(parts) or f"all {len(validation.findings)} expectations hold"


def write_page(validations: Sequence[Validation], path: Path) -> None:
    """Write one self-contained HTML file without scripts or external addresses. Failures come first."""
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
    html = env.get_template("page.html.jinja").render(validations=ordered, verdict=verdict)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, html)


def visible(value: Any) -> str:
    """Show a value on one line, with unprintable characters as escapes."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _text_rows(finding: Finding) -> list[str]:
    """Format rows in columns: those that identify the row as wide as needed, the value in the remaining width."""
    shown = finding.failed_rows[:_ROWS_IN_TEXT]
    names = tuple(shown[0])
    lines = [names, *(tuple({None: "-", "": "(empty)"}.get(row[n], visible(row[n])) for n in names) for row in shown)]
    widths = [min(_WIDEST_KEY, max(map(cell_len, column))) for column in zip(*lines, strict=True)]
    widths[-1] = WIDTH - 4 - sum(width + 2 for width in widths[:-1])
    texts = ["    " + "  ".join(map(_fitted, cells, widths)).rstrip() for cells in lines]
    more = finding.failed - len(shown)
    return [*texts, f"    ... and {more:,} more"] if more else texts


def _fitted(text: str, width: int) -> str:
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
