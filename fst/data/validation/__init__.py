"""Validation of data by Great Expectations: a user's problem file, prepared data, and a run's rollouts.

A suite's findings count the rows that break an expectation and name the first 100 of them by id and line. Critical
findings end the pipeline (`require`); warnings are reported and let it continue. `table` is for the terminal,
`write_page` for a browser.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fst.config import ValidateParams
from fst.data.families.jsonl import ProblemFile
from fst.data.validation.gx import Finding, run_suite
from fst.data.validation.page import Validation, table, write_page
from fst.data.validation.suites import (
    CRITICAL,
    balance_suite,
    channel_suite,
    prepared_suite,
    raw_suite,
    rollout_suite,
    sizes_suite,
)
from fst.data.validation.tables import prepared_tables, raw_table, rollout_tables
from fst.errors import ValidationFailed

__all__ = [
    "Finding",
    "Validation",
    "check_raw",
    "require",
    "table",
    "validate_prepared",
    "validate_raw",
    "validate_rollouts",
    "write_page",
]


def validate_raw(spec: str | Path) -> Validation:
    """Validate a user's problem file, one JSON object per line, by its spec. Raises DataError for one that cannot be
    opened, VerifierError for an invalid verifier in the spec."""
    file = ProblemFile.of(str(spec))
    rows = raw_table(file)
    return Validation("raw", file.path.name, rows.length, run_suite("raw", [(rows, raw_suite())]))


def check_raw(spec: str, page: Path) -> Validation:
    """Validate a user's problem file and write the findings to `page`. Raises ValidationFailed, with the offending
    rows, for a critical finding."""
    found = validate_raw(spec)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page([found], page)
    require([found], page)
    return found


def validate_prepared(folder: Path, params: ValidateParams, room: int | None) -> Validation:
    """Validate prepared data. `room` is the number of tokens that a question may have, None without a limit.

    Raises DataError for a folder without a readable domain.json or without the file of a split.
    """
    rows, sizes, answers, slices = prepared_tables(folder)
    parts = [
        (rows, prepared_suite(room)),
        (sizes, sizes_suite(params)),
        (answers, balance_suite("answer", params.max_answer_share)),
        (slices, balance_suite("slice", params.max_slice_share)),
    ]
    return Validation("prepared", folder.name, rows.length, run_suite("prepared", parts))


def validate_rollouts(
    lines: Iterable[tuple[int, Mapping[str, Any]]], subject: str, known_ids: Collection[str] | None = None
) -> Validation:
    """Validate the rollouts of a run, as (line number, object): those in force, without what a resume voided.

    `known_ids` are the ids of the problems that may be asked, None where they are not known.
    """
    rows, channels = rollout_tables(lines)
    parts = [(rows, rollout_suite(known_ids)), (channels, channel_suite())]
    return Validation("rollouts", subject, rows.length, run_suite("rollouts", parts))


def require(validations: Sequence[Validation], page: Path) -> tuple[Finding, ...]:
    """Return the warnings. Raises ValidationFailed, with the offending rows and the page, for a critical finding."""
    failed = [validation for validation in validations if not validation.ok]
    if failed:
        tables = "\n\n".join(map(table, failed))
        raise ValidationFailed(f"{tables}\n\n{_remedy(failed)} The page: {page}")
    return tuple(finding for validation in validations for finding in validation.warnings)


def _remedy(failed: Sequence[Validation]) -> str:
    """What to do: of rows where there are rows with a place in a file, of sizes where splits are too small."""
    critical = [finding for one in failed for finding in one.failing if finding.severity == CRITICAL]
    keys = [row.keys() for finding in critical for row in finding.failed_rows]
    remedies = []
    if any("line" in key for key in keys):
        remedies.append("Mend these rows at their source and run this again.")
    if any("line" not in key for key in keys):
        remedies.append(
            "Give the splits more problems: add some, or change prepare.train, prepare.validation and prepare.test; "
            "validate.min_problems says how many each needs."
        )
    return " ".join(remedies) or "Write problems into the file, one a line, and run this again."
