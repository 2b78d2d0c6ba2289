"""Prepared data: a domain's problems as files, so that every stage and every machine sees the same ones.

    train.jsonl validation.jsonl test.jsonl   one problem per line, in the domain's order
    domain.json                               {"schema", "spec", "verifier", "problems": {split: how many}}, and
                                              "code" with the hash of the verifier's file, if it is in a file

A line has `id`, `question`, `answer`, `split`, `meta` and `tokens`, the question's length in the model's tokens;
problems of a user's file also have `line`, their line in it, the `verifier` they name and their `feedback`. The bytes
depend only on the problems, the tokenizer and the verifier's code.

`meta` is restored exactly, including tuples, sets, keys that are not strings, NaN and infinity: JSON values are written
as they are, anything else becomes an object with a single key that begins with `$`, and an object that has such a key
itself is written as pairs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fst.data.code import code_of
from fst.data.domains import verifier_of
from fst.data.rows import PREPARED, Row, half_a_pair, mistakes, read_bytes, read_rows
from fst.data.types import SPLITS, Domain, Problem, Verifier
from fst.data.verifiers import OwnVerifiers, domain_verifier
from fst.errors import DataError, VerifierError
from fst.files import document, replacing

SCHEMA = 1
HEAD = "domain.json"
_AGAIN = "prepare the domain again"


def write_prepared(domain: Domain, folder: Path, tokens: Callable[[list[str]], list[int]]) -> str:
    """Write a domain into a folder, which is replaced atomically; returns its `contents_sha256`.

    `tokens` returns the length of each question in the model's tokens. Raises UnknownDomain for a spec that no family
    reads, and DataError for a problem whose meta cannot be written as JSON.
    """
    parts = {name: getattr(domain, name) for name in SPLITS}
    named = dict(domain.named or verifier_of(domain.spec))
    head = {
        "schema": SCHEMA,
        "spec": domain.spec,
        "verifier": named,
        "problems": {name: len(problems) for name, problems in parts.items()},
    }
    if code := code_of(named):
        head["code"] = code
    with replacing(folder) as partial:
        (partial / HEAD).write_text(document(head), encoding="utf-8")
        for name, problems in parts.items():
            lengths = tokens([problem.question for problem in problems]) if problems else []
            lines = [_line(problem, name, length) for problem, length in zip(problems, lengths, strict=True)]
            (partial / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        return contents_sha256(partial)


def load_prepared(folder: Path) -> Domain:
    """Load the domain that was written into a folder: its spec, the same problems in the same order, and an equivalent
    verifier.

    Raises DataError, with file and line, for anything that is missing or not as `write_prepared` wrote it.
    """
    head = read_head(folder)
    verify = rebuild_verifier(head, folder)
    splits: dict[str, tuple[Problem, ...]] = {}
    places: dict[str, str] = {}
    for name in SPLITS:
        problems = []
        for row in split_rows(folder, name):
            place = f"{folder / name}.jsonl:{row.number}"
            problem = _problem(row, head["spec"], name, place)
            if problem.id in places:
                raise DataError(f"{place}: the id {problem.id!r} is taken by {places[problem.id]}; {_AGAIN}")
            places[problem.id] = place
            problems.append(problem)
        if len(problems) != head["problems"][name]:
            raise DataError(
                f"{folder / name}.jsonl: {len(problems)} problems where {HEAD} says {head['problems'][name]}; {_AGAIN}"
            )
        splits[name] = tuple(problems)
    domain = Domain(head["spec"], **splits, verify=verify, named=head["verifier"])
    if isinstance(verify, OwnVerifiers):
        for problem in domain.problems:
            try:
                verify.check(problem)
            except VerifierError as exc:
                raise DataError(f"{places[problem.id]}: {exc}") from exc
    return domain


def contents_sha256(folder: Path) -> str:
    """Return the SHA-256, in 64 hex digits, of what `sha256sum *` prints in the folder."""
    digest = hashlib.sha256()
    for name in sorted((HEAD, *(f"{split}.jsonl" for split in SPLITS))):
        digest.update(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def read_head(folder: Path) -> dict[str, Any]:
    """Read domain.json. Raises DataError if it is missing, damaged or of another schema."""
    path = folder / HEAD
    try:
        head = json.loads(read_bytes(path, _AGAIN))
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


def split_rows(folder: Path, name: str) -> tuple[Row, ...]:
    """Read the lines of a split's file. Raises DataError if it cannot be read."""
    return read_rows(folder / f"{name}.jsonl", _AGAIN)


def problem_of(values: Mapping[str, Any], spec: str) -> Problem:
    """Rebuild the problem of a line. Raises ValueError for a line that is not as it was written."""
    for wrong, _ in mistakes(values, PREPARED):
        raise ValueError(wrong)
    texts = (values["id"], spec, values["question"], values["answer"])
    own = (values.get("verifier"), values.get("line"), values.get("feedback", ""))
    return Problem(*texts, decode(values["meta"]), *own)


def rebuild_verifier(head: Mapping[str, Any], folder: Path) -> Verifier:
    """Build the verifier that domain.json names. Raises DataError if it cannot be built, or if its code has changed."""
    try:
        if code_of(head["verifier"]) != head.get("code", {}):
            raise DataError(f"its code has changed since the problems were prepared; {_AGAIN}")
        return domain_verifier(head["verifier"])
    except (VerifierError, DataError) as exc:
        name = head["verifier"]["name"]
        raise DataError(f"{folder / HEAD}: the verifier {name!r} cannot be rebuilt: {exc}") from exc


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
    if problem.feedback:
        values["feedback"] = problem.feedback
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    if half_a_pair(text):
        text = json.dumps(values, allow_nan=False)  # as its escape
    return text + "\n"


def _problem(row: Row, spec: str, split: str, place: str) -> Problem:
    try:
        if row.values is None:
            raise ValueError(row.wrong)
        problem = problem_of(row.values, spec)
        if row.values["split"] != split:
            raise ValueError(f"a problem of the split {row.values['split']!r}")
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{place}: not as it was written ({exc}); {_AGAIN}") from exc
    return problem


def encode(value: Any) -> Any:
    """Convert a value to one that json.dumps writes as strict JSON. Raises TypeError for an unsupported type."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {f"${type(value).__name__}": sorted((encode(item) for item in value), key=repr)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"$dict": [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__}")


def decode(value: Any) -> Any:
    """The inverse of `encode`. Raises ValueError for an object with a `$` key that `encode` does not write."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: decode(item) for key, item in value.items()}
    try:
        ((key, inner),) = value.items()
        if key == "$dict":
            return {decode(name): decode(item) for name, item in inner}
        makers = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
        return float(inner) if key == "$float" else makers[key](map(decode, inner))
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"an object that nothing reads: {sorted(value)}") from exc
