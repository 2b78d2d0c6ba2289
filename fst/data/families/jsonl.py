"""Problems from a user's JSON-lines file: `jsonl:problems.jsonl`.

One object per line: `id`, `question`, `answer`, and optionally `verifier` (a name, or an object with `name` and
the verifier's options; `exact` without one), `split` (train, validation, test) and `meta`. A file is read whole
or not at all: its first 20 mistakes are reported together, each with its line and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fst.data.dealing import take
from fst.data.rows import RAW, Row, mistakes, read_rows, refuse
from fst.data.types import Problem, Splits, SplitSizes
from fst.data.verifiers import OwnVerifiers, named_verifier
from fst.errors import DataError, VerifierError


def load_file(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """The problems of a file. Raises DataError for a file that cannot be read and for the mistakes found in it."""
    path = Path(spec.removeprefix("jsonl:"))
    rows = file_rows(path)
    if not rows:
        raise DataError(f"{path}: the file is empty; write one problem a line, as a JSON object")
    reader = _Reader(spec, path)
    for row in rows:
        reader.read(row)
    reader.finish()
    return take(spec, reader.problems, [reader.splits.get(p.id) for p in reader.problems], sizes, seed)


def file_rows(path: Path) -> tuple[Row, ...]:
    """The lines of a user's file. Raises DataError for one that cannot be read."""
    return read_rows(path, f"check the path (it is relative to {Path.cwd()})")


def file_problem(row: Row, values: Mapping[str, Any], spec: str) -> Problem:
    """The problem of a line whose texts are right. Raises VerifierError for a `verifier` that names none."""
    meta, named = values.get("meta", {}), named_verifier(values.get("verifier", "exact"))
    texts = (values["id"], spec, values["question"], values["answer"])
    return Problem(*texts, meta if isinstance(meta, dict) else {}, named, row.number)


class _Reader:
    """Collects a file's problems and its mistakes, line by line."""

    def __init__(self, spec: str, path: Path) -> None:
        self.spec, self.path = spec, path
        self.problems: list[Problem] = []
        self.splits: dict[str, str] = {}
        self._mistakes: list[str] = []
        self._verifiers = OwnVerifiers()
        self._line_of_id: dict[str, int] = {}
        self._first_use: dict[str, tuple[int, str]] = {}
        self._first_without_split = 0

    def read(self, row: Row) -> None:
        if row.values is None:
            self._mistake(row, row.wrong, row.remedy)
            return
        found = list(mistakes(row.values, RAW))
        for wrong, remedy in found:
            self._mistake(row, wrong, remedy)
        if found:
            return
        self._check_duplicates(row, row.values)
        try:
            problem = file_problem(row, row.values, self.spec)
            self._verifiers.check(problem)
        except VerifierError as exc:
            self._mistake(row, str(exc))
        else:
            self.problems.append(problem)

    def finish(self) -> None:
        """Raises DataError with every mistake found."""
        if self.splits and self._first_without_split:
            self._mistakes.append(
                f'{self.path}:{self._first_without_split}: no "split", though other lines have one; give every line '
                "one, or none"
            )
        refuse(self._mistakes)

    def _mistake(self, row: Row, wrong: str, remedy: str = "") -> None:
        self._mistakes.append(f"{self.path}:{row.number}: {'; '.join(filter(None, (wrong, remedy)))}")

    def _check_duplicates(self, row: Row, values: Mapping[str, Any]) -> None:
        number, problem_id, split = row.number, values["id"], values.get("split")
        first = self._line_of_id.setdefault(problem_id, number)
        if first != number:
            self._mistake(row, f"the id {problem_id!r} is taken by line {first}", "give each problem an id of its own")
        if split is None:
            self._first_without_split = self._first_without_split or number
        else:
            self.splits[problem_id] = split
        line, other = self._first_use.setdefault(values["question"], (number, split or ""))
        if line != number and (split is None or other != split):
            where = f"{other} on line {line} and {split} here" if split else f"line {line} has it too"
            self._mistake(
                row, f"this question is in two splits ({where}), which leaks answers", "remove one of the lines"
            )
