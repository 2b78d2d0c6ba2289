"""Makes problem files from traffic: users' questions, the answers that users called right, and their comments on wrong
ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fst.data.types import TENANTS
from fst.errors import DataError
from fst.files import write_atomic
from fst.traffic.trust import mark

Pair = tuple[str, str]  # question, right answer
NO_COMMENTS: Mapping[str, str] = {}
Tellers = Mapping[str, Sequence[str]]  # question -> the tenants that gave its answer
NOBODY: Tellers = {}
LONGEST_COMMENT = 300  # characters; comments come from outside, and reflection reads them


def agreed(pairs: Iterable[Pair], most: int) -> list[Pair]:
    """Return the last `most` distinct questions with their answers. Questions with different answers are left out."""
    answers: dict[str, set[str]] = {}
    for question, answer in pairs:
        seen = answers.pop(question, set())  # to the end: it is as new as its last answer
        answers[question] = seen | {answer.strip()}
    clear = [(question, min(seen)) for question, seen in answers.items() if len(seen) == 1 and all(seen)]
    return clear[-most:]


def problem_lines(pairs: Iterable[Pair], comments: Mapping[str, str] = NO_COMMENTS, tellers: Tellers = NOBODY) -> str:
    """Format a problem file (fst/data/families/jsonl.py); a comment on a question becomes its `feedback`, and its meta
    has the marks of the tenants that gave the answer. The result does not depend on the order of the problems."""
    lines = []
    for question, answer in pairs:
        row: dict[str, object] = {"id": _id(question), "question": question, "answer": answer}
        if comment := " ".join(comments.get(question, "").split())[:LONGEST_COMMENT]:
            row["feedback"] = comment
        if question in tellers:
            row["meta"] = {TENANTS: sorted(map(mark, tellers[question]))}
        lines.append(json.dumps(row))
    return "".join(f"{line}\n" for line in sorted(lines))


def write_problems(
    pairs: Iterable[Pair],
    folder: Path,
    domain: str,
    comments: Mapping[str, str] = NO_COMMENTS,
    tellers: Tellers = NOBODY,
) -> Path:
    """Write a problem file whose name has the domain and a hash of its content, so that no dataset ever changes. Raises
    DataError if there is nothing to write."""
    content = problem_lines(pairs, comments, tellers)
    if not content:
        raise DataError(f"no traffic of {domain!r} has a right answer yet; send feedback with an answer or reward 1")
    file = folder / f"{domain}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, content)
    return file


def _id(question: str) -> str:
    return f"traffic-{hashlib.sha256(question.encode()).hexdigest()[:12]}"
