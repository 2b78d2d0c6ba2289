"""Prepared data: a domain's problems as files, so that every stage and every machine sees the same ones.

    train.jsonl validation.jsonl test.jsonl   a problem a line, in the domain's order
    domain.json                               {"schema", "spec", "verifier", "problems": {split: how many}}

A line holds `id`, `question`, `answer`, `split`, `meta` and `tokens`, the question's length in the model's tokens;
problems of a user's file also `line`, where they stand in it, and the `verifier` they name. The bytes depend on the
problems and the tokenizer alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fst.data.domains import EACH, GYM, verifier_of
from fst.data.families.jsonl import own_verifier, verify_each
from fst.data.families.reasoning_gym import open_dataset
from fst.data.lossless import decode, encode
from fst.data.types import Domain, Problem, Verifier
from fst.data.verifiers import build_verifier
from fst.errors import DataError, VerifierError
from fst.files import document, replacing

SCHEMA = 1
SPLITS = ("train", "validation", "test")
HEAD = "domain.json"
FIELDS: dict[str, type] = {"id": str, "question": str, "answer": str, "split": str, "meta": dict, "tokens": int}
OPTIONAL: dict[str, type] = {"line": int, "verifier": dict}
_AGAIN = "prepare the domain again"


def write_prepared(domain: Domain, folder: Path, tokens: Callable[[list[str]], list[int]]) -> str:
    """Write a domain into a folder, replacing it as a whole; returns its `contents_sha256`.

    `tokens` gives the length of each question in the model's tokens. Raises UnknownDomain for a spec that no family
    reads, DataError for a problem whose meta cannot be written as JSON.
    """
    parts = {name: getattr(domain, name) for name in SPLITS}
    head = {
        "schema": SCHEMA,
        "spec": domain.spec,
        "verifier": verifier_of(domain.spec),
        "problems": {name: len(problems) for name, problems in parts.items()},
    }
    with replacing(folder) as partial:
        (partial / HEAD).write_text(document(head), encoding="utf-8")
        for name, problems in parts.items():
            lengths = tokens([problem.question for problem in problems]) if problems else []
            lines = [_line(problem, name, length) for problem, length in zip(problems, lengths, strict=True)]
            (partial / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        return contents_sha256(partial)


def load_prepared(folder: Path) -> Domain:
    """The domain that was written into a folder: its spec, the same problems in the same order, and a verifier that
    scores as its own does.

    Raises DataError, with file and line, for what is missing or is not as `write_prepared` leaves it.
    """
    head = read_head(folder)
    parts = {name: _read_split(folder, name, head) for name in SPLITS}
    problems = [problem for split in parts.values() for problem in split]
    places: dict[str, str] = {}
    for name, split in parts.items():
        for number, problem in enumerate(split, start=1):
            place = f"{folder / name}.jsonl:{number}"
            if problem.id in places:
                raise DataError(f"{place}: the id {problem.id!r} is taken by {places[problem.id]}; {_AGAIN}")
            places[problem.id] = place
    verify = _verify_each(problems, places) if head["verifier"]["name"] == EACH else rebuild_verifier(head, folder)
    return Domain(head["spec"], parts["train"], parts["validation"], parts["test"], verify)


def contents_sha256(folder: Path) -> str:
    """sha256, as 64 hex digits, of what `sha256sum *` prints in the folder."""
    digest = hashlib.sha256()
    for name in sorted((HEAD, *(f"{split}.jsonl" for split in SPLITS))):
        digest.update(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def read_head(folder: Path) -> dict[str, Any]:
    """domain.json. Raises DataError for one that is missing, damaged or of another schema."""
    path = folder / HEAD
    try:
        head = json.loads(read_bytes(path))
    except ValueError as exc:
        raise DataError(f"{path}: no valid JSON ({exc}); {_AGAIN}") from exc
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        raise DataError(f"{path}: not of schema {SCHEMA}, which this version reads; {_AGAIN}")
    kinds = {"spec": str, "verifier": dict, "problems": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(head.get(key), kind)]
    if wrong or not isinstance(head["verifier"].get("name"), str):
        raise DataError(f"{path}: {', '.join(wrong) or 'verifier'} is not as it was written; {_AGAIN}")
    if [name for name in SPLITS if type(head["problems"].get(name)) is not int]:
        raise DataError(f"{path}: problems does not count {', '.join(SPLITS)}; {_AGAIN}")
    return head


def read_bytes(path: Path) -> bytes:
    """A file of the folder. Raises DataError for one that is not there or cannot be read."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); {_AGAIN}") from exc


def numbered(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that hold anything, with their numbers from 1."""
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def problem_of(row: Mapping[str, Any], spec: str) -> Problem:
    """The problem of a line. Raises ValueError for a line that is not as it was written."""
    for key, kind in {**FIELDS, **OPTIONAL}.items():
        if (key in row or key in FIELDS) and type(row.get(key)) is not kind:
            raise ValueError(f"{key!r} is {'missing' if key not in row else 'no ' + kind.__name__}")
    if unknown := sorted(row.keys() - FIELDS.keys() - OPTIONAL.keys()):
        raise ValueError(f"unknown key {unknown[0]!r}")
    named = row.get("verifier")
    return Problem(row["id"], spec, row["question"], row["answer"], decode(row["meta"]), named, row.get("line"))


def rebuild_verifier(head: Mapping[str, Any], folder: Path) -> Verifier:
    """The verifier that domain.json names, where it names one for all problems. Raises DataError."""
    options = dict(head["verifier"])
    name = options.pop("name")
    try:
        return open_dataset(str(options.get("dataset")))[1] if name == GYM else build_verifier(name, options)
    except (VerifierError, DataError) as exc:
        raise DataError(f"{folder / HEAD}: the verifier {name!r} cannot be rebuilt: {exc}") from exc


def reference_of(problem: Problem, named: Mapping[str, Any]) -> str | None:
    """The answer that the verifier called `named` should give reward 1, None where a problem has none: a pattern in
    place of an answer, or a task with many solutions."""
    if named["name"] == "regex" and not named.get("pattern"):
        return None
    if named["name"] == GYM and problem.meta.get("answer") is None:
        return None
    return problem.answer


def _line(problem: Problem, split: str, tokens: int) -> str:
    row = {"id": problem.id, "question": problem.question, "answer": problem.answer, "split": split}
    try:
        values: dict[str, Any] = {**row, "meta": encode(dict(problem.meta)), "tokens": tokens}
    except TypeError as exc:
        raise DataError(f"{problem.domain}: problem {problem.id!r}: meta holds {exc}, which no file can hold") from exc
    if problem.line is not None:
        values["line"] = problem.line
    if problem.verifier is not None:
        values["verifier"] = dict(problem.verifier)
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= char <= "\udfff" for char in text):  # half a surrogate pair has no bytes: write its escape
        text = json.dumps(values, allow_nan=False)
    return text + "\n"


def _read_split(folder: Path, name: str, head: Mapping[str, Any]) -> tuple[Problem, ...]:
    path = folder / f"{name}.jsonl"
    problems: list[Problem] = []
    for number, line in numbered(read_bytes(path)):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no object")
            problems.append(problem_of(row, head["spec"]))
            if row["split"] != name:
                raise ValueError(f"a problem of the split {row['split']!r}")
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{path}:{number}: not as it was written ({exc}); {_AGAIN}") from exc
    if len(problems) != head["problems"][name]:
        raise DataError(f"{path}: {len(problems)} problems where {HEAD} says {head['problems'][name]}; {_AGAIN}")
    return tuple(problems)


def _verify_each(problems: Sequence[Problem], places: Mapping[str, str]) -> Verifier:
    verifiers = {}
    for problem in problems:
        try:
            verifiers[problem.id] = own_verifier(problem)
        except VerifierError as exc:
            raise DataError(f"{places[problem.id]}: {exc}") from exc
    return verify_each(verifiers)
