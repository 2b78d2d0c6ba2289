"""Problems from a JSON-lines file of the user's: `jsonl:problems.jsonl`.

One object a line: `id`, `question`, `answer`, and if wanted `verifier` (a name, or an object with `name` and
the verifier's options; `exact` without one), `split` (train, validation, test) and `meta`. A file is read whole
or not at all: its first 20 mistakes are reported together, each with its line and what to do.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fst.data.types import Domain, Problem, Score, SplitSizes, Verifier
from fst.data.verifiers import build_verifier
from fst.errors import DataError, VerifierError

_log = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")
KEYS = ("id", "question", "answer", "verifier", "split", "meta")
_MOST_ERRORS = 20
# Verifiers whose reading of the reference answer is checked on loading; the others are slow or a user's code.
_CHECKED = ("numeric", "regex", "multiple_choice")


def load_jsonl(spec: str, sizes: SplitSizes, seed: int) -> Domain:
    """The domain of a problem file.

    Each split takes at most as many problems as asked and needs one; where it holds fewer, a warning is
    logged. Raises DataError for a file that cannot be read and for the mistakes found in it.
    """
    path = Path(spec.removeprefix("jsonl:"))
    reader = _Reader(spec, path)
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            reader.read_line(number, line)
    reader.finish()
    verify = verify_each({p.id: verifier for p, verifier in zip(reader.problems, reader.verifiers, strict=True)})
    return split_problems(
        spec, reader.problems, [reader.splits.get(p.id) for p in reader.problems], sizes, seed, verify
    )


def verify_each(verifiers: Mapping[str, Verifier]) -> Verifier:
    """The verifier that scores each problem with its own; `verifiers` is by problem id."""

    def verify(problem: Problem, response: str) -> Score:
        return verifiers[problem.id](problem, response)

    return verify


def named_verifier(value: Any) -> dict[str, Any]:
    """What a problem gives as its verifier, as `name` and options. Raises VerifierError for what names none."""
    named = {"name": value} if isinstance(value, str) else value
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise VerifierError('\'verifier\' must be a name, or an object like {"name": "numeric", "tolerance": 0.1}')
    return named


def own_verifier(problem: Problem) -> Verifier:
    """The verifier that a problem names. Raises VerifierError for one that does not exist, and for one that cannot
    read the reference answer."""
    named = dict(problem.verifier or {"name": "exact"})
    name = named.pop("name")
    verifier = build_verifier(name, named)
    if name in _CHECKED:
        verifier(problem, problem.answer)
    return verifier


def split_problems(
    spec: str,
    problems: Sequence[Problem],
    named: Sequence[str | None],
    sizes: SplitSizes,
    seed: int,
    verify: Verifier,
) -> Domain:
    """A domain of problems whose splits are `named`, or (where none is) dealt by a hash of their ids.

    Hashed splits are as large as asked where there are problems enough, in proportion to it otherwise. They
    and the held-out problems taken do not depend on `seed`; which train problems are taken, and in which
    order, does. Raises DataError for a split that would be empty.
    """
    ranked = sorted(zip(problems, named, strict=True), key=lambda pair: hashlib.sha256(pair[0].id.encode()).digest())
    asked = {name: getattr(sizes, name) for name in _SPLITS}
    if any(named):
        pools = {name: [p for p, split in ranked if split == name] for name in _SPLITS}
    else:
        pools = _deal([p for p, _ in ranked], asked)
    random.Random(f"train order {seed}").shuffle(pools["train"])
    for name in _SPLITS:
        have = len(pools[name])
        if have == 0 and asked[name] > 0:
            raise DataError(
                f"{spec}: no problem for the {name} split ({len(problems)} in all); add problems"
                + (f' with "split": "{name}"' if any(named) else "")
            )
        if have < asked[name]:
            _log.warning("%s: the %s split holds %d problems, %d were asked", spec, name, have, asked[name])
    train, validation, test = (tuple(pools[name][: asked[name]]) for name in _SPLITS)
    return Domain(spec, train, validation, test, verify)


def _deal(ranked: list[Problem], asked: dict[str, int]) -> dict[str, list[Problem]]:
    share = min(1.0, len(ranked) / max(1, sum(asked.values())))
    test, held_out = (
        max(1, round(asked["test"] * share)) if asked["test"] else 0,
        max(1, round(asked["validation"] * share)) if asked["validation"] else 0,
    )
    return {
        "test": ranked[:test],
        "validation": ranked[test : test + held_out],
        "train": ranked[test + held_out :],
    }


def _read_text(path: Path) -> str:
    """The file's text without a byte order mark. Raises DataError with the remedy."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise DataError(f"{path}: there is no such file; check the path (it is relative to {Path.cwd()})") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); give a file that you may read") from exc
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        # Offsets of the decoder do not count the mark.
        offset = exc.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, offset) + 1
        raise DataError(f"{path}:{line}: byte {offset} is not UTF-8; save the file as UTF-8") from exc
    if not text.strip():
        raise DataError(f"{path}: the file is empty; write one problem a line, as a JSON object")
    return text


class _Reader:
    """Collects a file's problems and its mistakes, line by line."""

    def __init__(self, spec: str, path: Path) -> None:
        self.spec, self.path = spec, path
        self.problems: list[Problem] = []
        self.verifiers: list[Verifier] = []
        self.splits: dict[str, str] = {}
        self._errors: list[str] = []
        self._line_of_id: dict[str, int] = {}
        self._first_use: dict[str, tuple[int, str]] = {}
        self._first_without_split = 0

    def read_line(self, number: int, line: str) -> None:
        before = len(self._errors)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            self._error(number, f"no valid JSON ({exc}); write one complete object on one line")
            return
        if not isinstance(row, dict):
            self._error(number, f'a JSON {type(row).__name__}, not an object; write {{"id": ..., "question": ...}}')
            return
        self._check_fields(number, row)
        if len(self._errors) > before:
            return
        texts = (row["id"], self.spec, row["question"], row["answer"])
        self._check_duplicates(number, Problem(*texts), row.get("split"))
        try:
            problem = Problem(*texts, row.get("meta", {}), named_verifier(row.get("verifier", "exact")), number)
            verifier = own_verifier(problem)
        except VerifierError as exc:
            self._error(number, str(exc))
            return
        if len(self._errors) == before:
            self.problems.append(problem)
            self.verifiers.append(verifier)

    def finish(self) -> None:
        """Raises DataError with every mistake found."""
        if self.splits and self._first_without_split:
            self._error(
                self._first_without_split, 'no "split", though other lines have one; give every line one, or none'
            )
        if self._errors:
            more = len(self._errors) - _MOST_ERRORS
            shown = self._errors[:_MOST_ERRORS] + ([f"... and {more} more"] if more > 0 else [])
            raise DataError("\n".join(shown))

    def _error(self, number: int, text: str) -> None:
        self._errors.append(f"{self.path}:{number}: {text}")

    def _check_fields(self, number: int, row: dict[str, Any]) -> None:
        for key in row:
            if key not in KEYS:
                close = difflib.get_close_matches(key, KEYS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KEYS)}; put others into meta"
                self._error(number, f"unknown key {key!r}; {hint}")
        for key in ("id", "question", "answer"):
            value = row.get(key)
            if value is None:
                self._error(number, f"{key!r} is missing; add it")
            elif not isinstance(value, str):
                self._error(number, f"{key!r} is a {type(value).__name__}; write it as a text, in quotes")
            elif not value.strip():
                self._error(number, f"{key!r} is empty; write something, or remove the line")
            elif any("\ud800" <= char <= "\udfff" for char in value):
                self._error(
                    number, f"{key!r} holds half a surrogate pair (\\ud800 to \\udfff); write the character itself"
                )
        if row.get("split", "train") not in _SPLITS:
            self._error(number, f"'split' is {row['split']!r}; write train, validation or test")
        if not isinstance(row.get("meta", {}), dict):
            self._error(number, "'meta' is no object; write {...}")

    def _check_duplicates(self, number: int, problem: Problem, split: str | None) -> None:
        first = self._line_of_id.setdefault(problem.id, number)
        if first != number:
            self._error(number, f"the id {problem.id!r} is taken by line {first}; give each problem an id of its own")
        if split is None:
            self._first_without_split = self._first_without_split or number
        else:
            self.splits[problem.id] = split
        line, other = self._first_use.setdefault(problem.question, (number, split or ""))
        if line != number and (split is None or other != split):
            where = f"{other} on line {line} and {split} here" if split else f"line {line} has it too"
            self._error(
                number, f"this question is in two splits ({where}), which leaks answers; remove one of the lines"
            )
