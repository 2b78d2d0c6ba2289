"""Running suites of Great Expectations: tables in, findings out. Nothing is sent anywhere or written to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fst.extras import require

MOST_ROWS = 100
LONGEST_VALUE = 200


@dataclass(frozen=True)
class Table:
    """Columns of equal length. `index` names those that identify a row; `noun` is what a row is, in the plural.

    Expectations ignore the cells that are None: there is nothing in them to check.
    """

    columns: Mapping[str, Sequence[Any]]
    index: tuple[str, ...]
    noun: str = "rows"

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class Finding:
    """The result of one expectation, which is a sentence. `failed` rows broke it, and the first 100 of them are
    `failed_rows`: each names its `id` and `line` (or its split, or channel) and the offending `value`. `observed` is a
    summary, e.g. `3 of 40 rows`."""

    expectation: str
    severity: str
    success: bool
    failed: int
    failed_rows: tuple[dict[str, Any], ...]
    observed: str


def library() -> ModuleType:
    """The module great_expectations, with its telemetry off. Raises MissingDependency."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    os.environ.setdefault("DO_NOT_TRACK", "1")
    require("data")
    import great_expectations
    import great_expectations.expectations

    module: ModuleType = great_expectations
    return module


def run_suite(name: str, parts: Sequence[tuple[Table, Sequence[Any]]]) -> tuple[Finding, ...]:
    """What the expectations of each part find in its table, in their order.

    Raises RuntimeError for an expectation that cannot be computed: that is no verdict on the data.
    """
    gx = library()
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        store_backend_defaults=InMemoryStoreBackendDefaults(),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    source = context.data_sources.add_pandas(name)
    findings = []
    for number, (table, expectations) in enumerate(parts):
        part = f"{name} {number}"
        for place, expectation in enumerate(expectations):
            expectation.meta = {"place": place}  # results come in an order of their own
        suite = context.suites.add(gx.ExpectationSuite(name=part, expectations=list(expectations)))
        batch = source.add_dataframe_asset(part).add_batch_definition_whole_dataframe(part)
        definition = gx.ValidationDefinition(name=part, data=batch, suite=suite)
        found = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": _frame(table)},
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": list(table.index),
                "return_unexpected_index_query": False,
            },
        )
        results = sorted(found.results, key=lambda result: result.expectation_config.meta["place"])
        findings += [_finding(result, table) for result in results]
    return tuple(findings)


def _frame(table: Table) -> Any:
    """A data frame whose cells stay the Python objects that they are."""
    import pandas

    columns = {name: pandas.Series([_cell(v) for v in cells], dtype=object) for name, cells in table.columns.items()}
    return pandas.DataFrame(columns)


def _cell(value: Any) -> Any:
    """Half a surrogate pair cannot be in a data frame, nor in a page: it is shown by its escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _finding(result: Any, table: Table) -> Finding:
    config, details = result.expectation_config, result.result
    rows: tuple[dict[str, Any], ...] = ()
    if not result.success and not details:
        raise RuntimeError(f"the expectation {config.description!r} could not be computed: {result.exception_info}")
    if "observed_value" in details:
        failed, observed = 0, f"{details['observed_value']} {table.noun}"
    else:
        failed = details["unexpected_count"]
        wanted = config.kwargs.get("column") or (config.kwargs["column_A"], config.kwargs["column_B"])
        rows = tuple(_row(row, table.index, wanted) for row in details["unexpected_index_list"][:MOST_ROWS])
        observed = f"{failed} of {details['element_count']} {table.noun}"
    severity = getattr(config.severity, "value", config.severity)
    return Finding(config.description, severity, bool(result.success), failed, rows, observed)


def _row(cells: Mapping[str, Any], index: tuple[str, ...], wanted: str | tuple[str, str]) -> dict[str, Any]:
    value = cells[wanted] if isinstance(wanted, str) else ", ".join(f"{name} {_plain(cells[name])}" for name in wanted)
    return {**{name: _plain(cells[name]) for name in index}, "value": _plain(value)}


def _plain(value: Any) -> Any:
    """A cell as a JSON value, cut at 200 characters."""
    value = value.item() if hasattr(value, "item") else value  # numpy's scalars
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
