"""Problems from a user's JSON-lines file: `jsonl:problems.jsonl[?verifier=name]`.

One object per line: `id`, `question`, `answer`, and optionally `verifier` (a name, or an object with `name` and
the verifier's options; without one that of the spec, else `exact`), `feedback` (a hint for wrong answers),
`split` (train, validation, test) and `meta`. A file is read whole or not at all: its first 20 mistakes are reported
together, each with its line and what to do.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fst.data.code import names_code
from fst.data.dealing import take
from fst.data.labels import labels_of, lists_none
from fst.data.rows import RAW, Row, mistakes, read_rows, refuse
from fst.data.scored_by import written_verifier
from fst.data.types import EXACT, Problem, Splits, SplitSizes
from fst.data.verifiers import EACH, OwnVerifiers, named_verifier
from fst.errors import DataError, VerifierError
from fst.types import plain_spec

_ASKED = "?verifier="


def load_file(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """Load the problems of a file. Raises DataError for a file that cannot be read and for the mistakes found in it."""
    file = ProblemFile.of(spec)
    if not file.rows:
        raise DataError(f"{file.path}: the file is empty; write one problem a line, as a JSON object")
    reader = _Reader(spec, file)
    for row in file.rows:
        reader.read(row)
    reader.finish()
    return take(spec, reader.problems, [reader.splits.get(p.id) for p in reader.problems], sizes, seed)


def file_of(spec: str) -> Path | None:
    """Return the path of a spec's problem file; None for a spec of another family."""
    path = plain_spec(spec).removeprefix("jsonl:").partition(_ASKED)[0]
    return Path(path) if spec.startswith("jsonl:") or path.endswith(".jsonl") else None


def file_verifier(spec: str) -> dict[str, Any]:
    """Return the verifier of a file's problems, as name and options: each problem's own, which may be a function in a
    code file only if the spec names it. Raises VerifierError for an invalid verifier."""
    name = _default(spec)["name"]
    return {"name": EACH, "code": name} if names_code(name) else {"name": EACH}


def _default(spec: str) -> dict[str, Any]:
    """Return the verifier of problems that name none, as name and options."""
    asked = unquote(plain_spec(spec).partition(_ASKED)[2])
    return written_verifier(asked) if asked else dict(EXACT)


@dataclass(frozen=True)
class ProblemFile:
    """A user's file: its lines, and the verifier of those that name none."""

    path: Path
    rows: tuple[Row, ...]
    default: Mapping[str, Any]

    @classmethod
    def of(cls, spec: str) -> ProblemFile:
        """Read the file of a spec. Raises DataError if it cannot be read."""
        path = file_of(spec) or Path(spec)
        return cls(path, read_rows(path, f"check the path (it is relative to {Path.cwd()})"), _default(spec))

    @functools.cached_property
    def verifiers(self) -> OwnVerifiers:
        """The verifier that scores each problem with its own."""
        name = self.default["name"]
        return OwnVerifiers(name if names_code(name) else "")

    def problem(self, row: Row, values: Mapping[str, Any], spec: str = "") -> Problem:
        """Make the problem of a line whose texts are valid. Raises VerifierError for a `verifier` that names none, and
        if labels must be derived from answers that do not look like labels."""
        meta, named = values.get("meta", {}), self._named(values)
        if lists_none(named):
            if isinstance(self._labels, VerifierError):
                raise self._labels
            named = {**named, "labels": self._labels}
        texts = (values["id"], spec, values["question"], values["answer"])
        meta, hint = (meta if isinstance(meta, dict) else {}), values.get("feedback")
        return Problem(*texts, meta, named, row.number, hint if isinstance(hint, str) else "")

    @functools.cached_property
    def _labels(self) -> list[str] | VerifierError:
        """The labels derived from the answers to all problems that list none, or the error if they cannot be."""
        answers = [row.values["answer"] for row in self.rows if row.values and self._asks_for_labels(row.values)]
        try:
            return labels_of([answer for answer in answers if isinstance(answer, str)])
        except VerifierError as exc:
            return exc

    def _asks_for_labels(self, values: Mapping[str, Any]) -> bool:
        try:
            return "answer" in values and lists_none(self._named(values))
        except VerifierError:
            return False

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return named_verifier(values.get("verifier", self.default))


class _Reader:
    """Collects a file's problems and its mistakes, line by line."""

    def __init__(self, spec: str, file: ProblemFile) -> None:
        self.spec, self.path, self._file = spec, file.path, file
        self.problems: list[Problem] = []
        self.splits: dict[str, str] = {}
        self._mistakes: list[str] = []
        self._refused: set[str] = set()  # what was said of verifiers; the same is not said of every line
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
            problem = self._file.problem(row, row.values, self.spec)
            self._file.verifiers.check(problem)
        except VerifierError as exc:
            if str(exc) not in self._refused:
                self._mistake(row, str(exc))
            self._refused.add(str(exc))
        else:
            self.problems.append(problem)

    def finish(self) -> None:
        """Raise DataError with every mistake found, if there are any."""
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
