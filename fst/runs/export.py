"""A run's rollouts and prompts as tables: Parquet, or JSON lines.

A table of rollouts has a row for each one in force, in the order of the record: what a cut-off run voided is left out.
A table of prompts has a row for each of the run's lineage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fst.errors import ConfigError
from fst.runs.records import rollouts_of
from fst.runs.view import load_run

Rows = Callable[[], Iterator[Mapping[str, Any]]]

ROLLOUTS = {
    **{"round": "int64", "purpose": "string", "problem_id": "string", "prompt_id": "string", "weights": "int64"},
    **{"text": "string", "tokens": "int64", "logprob": "float64", "reward": "float64", "feedback": "string"},
}
PROMPTS = {
    **{"id": "string", "text": "string", "parents": ["string"], "origin": "string", "born": "int64"},
    **{"score": "float64", "rank": "int64", "feedback": "string"},
}


def export_run(run: Path, out: Path, parquet: bool) -> list[tuple[Path, int]]:
    """Write both tables into a folder, made where it is missing; returns each file with its number of rows. Rows are
    never all in memory. Raises ConfigError for a table that is there already, RecordError for a folder that is no
    run."""
    prompts = [asdict(prompt) for prompt in load_run(run).prompts]
    tables: dict[str, tuple[Rows, Mapping[str, Any]]] = {
        "rollouts": (lambda: ({**row, "purpose": row.get("channel")} for _, row in rollouts_of(run)), ROLLOUTS),
        "prompts": (lambda: iter(prompts), PROMPTS),
    }
    files = {name: out / f"{name}.{'parquet' if parquet else 'jsonl'}" for name in tables}
    for file in files.values():
        if file.exists():
            raise ConfigError(f"{file} is there already; name another folder with --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    return [(files[name], _write(rows, columns, files[name])) for name, (rows, columns) in tables.items()]


def _write(rows: Rows, columns: Mapping[str, Any], file: Path) -> int:
    """Write the columns of rows into a file, whole or not at all, and return the number of rows. A value that a row
    does not have is null."""
    from datasets import Dataset, Features, List, Value  # here: it takes seconds to import

    def given() -> Iterator[dict[str, Any]]:
        for row in rows():
            yield {name: row.get(name) for name in columns}

    types = {name: List(Value(of[0])) if isinstance(of, list) else Value(of) for name, of in columns.items()}
    with tempfile.TemporaryDirectory(prefix=f".{file.stem}-", dir=file.parent) as scratch:
        made, features = Path(scratch) / file.name, Features(types)
        if next(given(), None) is None:
            table = Dataset.from_dict({name: [] for name in columns}, features=features)
        else:
            table = Dataset.from_generator(given, features=features, cache_dir=scratch, fingerprint=file.stem)
        (table.to_parquet if file.suffix == ".parquet" else table.to_json)(str(made))
        made.replace(file)
        return int(table.num_rows)
