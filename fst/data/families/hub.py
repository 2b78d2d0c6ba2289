"""Problems from a dataset of the Hugging Face hub, or from a local folder in the same form.

`hub:<name>[@revision][:config][?question=col&answer=col&feedback=col&verifier=name&split=train]`, and in the query the
verifier's own options, e.g. `&verifier=numeric&tolerance=0.1`. A cell of the column `feedback` is a hint for wrong
answers to that row. A column of class labels is read as the names of its classes.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import re
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from fst.data.dealing import take
from fst.data.rows import refuse
from fst.data.types import Problem, Splits, SplitSizes
from fst.data.verifiers import verifier_options
from fst.errors import DataError, UnknownDomain

_SPEC = re.compile(r"^hub:(?P<name>[^@:?]+)(?:@(?P<revision>[^:?]+))?(?::(?P<config>[^?]+))?(?:\?(?P<query>.*))?$")
_DEFAULTS = {"question": "question", "answer": "answer", "verifier": "exact", "split": "train", "feedback": ""}


def load_hub(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """Load the problems of a hub dataset: one of its splits, dealt into train, validation and test by a hash of the
    question. Repeated questions are taken once.

    Raises UnknownDomain for a spec that cannot be read, DataError for a dataset that cannot be loaded, has no such
    column, or has rows without a question or an answer.
    """
    match, options = _parse(spec)
    rows = _rows(spec, match, options["split"])
    _check_columns(spec, rows.column_names, options)
    problems = _problems(spec, *(_cells(rows, options[key]) for key in ("question", "answer")))
    if hints := options["feedback"]:
        told = dict(zip(map(str, _cells(rows, options["question"])), rows[hints], strict=True))
        problems = [replace(p, feedback=str(told[p.question] or "").strip()) for p in problems]
    return take(spec, problems, [None] * len(problems), sizes, seed)


def hub_verifier(spec: str) -> dict[str, Any]:
    """Return the verifier that a hub spec asks for, as name and options. Raises UnknownDomain for a spec that cannot be
    read."""
    options = _parse(spec)[1]
    name = options["verifier"]
    own = {key: value for key, value in options.items() if key not in _DEFAULTS}
    return {"name": name, **{key: _value(text, verifier_options(name)[key]) for key, text in own.items()}}


def _value(text: str, default: Any) -> Any:
    """Convert an option of the query to the type of the verifier's default: a boolean or a number. A text that cannot
    be converted stays a text, which the verifier refuses."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(default, float):
        with contextlib.suppress(ValueError):
            return float(text)
    return text


def _parse(spec: str) -> tuple[re.Match[str], dict[str, str]]:
    match = _SPEC.match(spec)
    if match is None:
        raise UnknownDomain(f"cannot read {spec!r}; write hub:<name>[@revision][:config][?question=col&answer=col]")
    return match, _options(spec, match["query"] or "")


def _options(spec: str, query: str) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = [*_DEFAULTS, *verifier_options(given.get("verifier", _DEFAULTS["verifier"]))]
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise UnknownDomain(f"{spec}: unknown option {key!r}; {hint}")
        if not value:
            raise UnknownDomain(f"{spec}: the option {key!r} is empty; give it a value or leave it out")
    return {**_DEFAULTS, **given}


def _rows(spec: str, match: re.Match[str], split: str) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(match["name"], match["config"], split=split, revision=match["revision"])
    except Exception as exc:
        # The library raises its own, the hub client's and the file system's errors alike.
        raise DataError(
            f"{spec}: the dataset cannot be loaded ({type(exc).__name__}: {exc}). Check its name, config and split; "
            "without a connection, download it before or give a local folder: hub:/path/to/folder"
        ) from exc


def _cells(rows: Any, column: str) -> list[Any]:
    """Return a column's values; class labels by name, or None for a row without a label (-1)."""
    from datasets import ClassLabel

    feature = rows.features[column]
    if not isinstance(feature, ClassLabel):
        return list(rows[column])
    return [None if label is None or label < 0 else feature.int2str(label) for label in rows[column]]


def _check_columns(spec: str, columns: list[str], options: dict[str, str]) -> None:
    for key in ("question", "answer", "feedback"):
        if options[key] and options[key] not in columns:
            close = difflib.get_close_matches(options[key], columns, n=1)
            hint = f"{key}={close[0] if close else '<column>'}"
            raise DataError(f"{spec}: no column {options[key]!r}; the columns are {', '.join(columns)}: add ?{hint}")


def _problems(spec: str, questions: Any, answers: Any) -> list[Problem]:
    """Make a problem for each distinct question, whose hash is its id."""
    problems: dict[str, Problem] = {}
    errors: list[str] = []
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        cells = {"question": question, "answer": answer}
        wrong = [key for key, cell in cells.items() if not isinstance(cell, str | int | float) or not str(cell).strip()]
        if wrong:
            errors.append(f"row {row}: the {' and the '.join(wrong)} is empty or neither text nor number")
            continue
        text = str(question)
        if text in problems and problems[text].answer != str(answer):
            errors.append(f"row {row}: this question has another answer in an earlier row: {text[:60]!r}")
        problem_id = hashlib.sha256(text.encode()).hexdigest()[:16]
        problems.setdefault(text, Problem(problem_id, spec, text, str(answer)))
    refuse(errors, heading=f"{spec}: remove or mend these rows:")
    return list(problems.values())
