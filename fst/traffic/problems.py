"""Problem files from traffic: what users asked, with the answers that they said were right and what they said of
answers that were not."""

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
LONGEST_COMMENT = 300  # characters; a comment comes from outside and is read by reflection


def agreed(pairs: Iterable[Pair], most: int) -> list[Pair]:
    """The last `most` distinct questions with their answers. A question with two different answers is left
    out."""
    answers: dict[str, set[str]] = {}
    for question, answer in pairs:
        seen = answers.pop(question, set())  # to the end: it is as new as its last answer
        answers[question] = seen | {answer.strip()}
    clear = [(question, min(seen)) for question, seen in answers.items() if len(seen) == 1 and all(seen)]
    return clear[-most:]


def problem_lines(pairs: Iterable[Pair], comments: Mapping[str, str] = NO_COMMENTS, tellers: Tellers = NOBODY) -> str:
    """The text of a problem file (fst/data/families/jsonl.py); a comment on a question is its `feedback`, and its meta
    holds the marks of the tenants that gave the answer. Equal problems in any order give equal bytes."""
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
    """Write a problem file named by the domain and its content, so that no dataset ever changes. Raises DataError when
    there is nothing to write."""
    content = problem_lines(pairs, comments, tellers)
    if not content:
        raise DataError(f"no traffic of {domain!r} has a right answer yet; send feedback with an answer or reward 1")
    file = folder / f"{domain}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, content)
    return file


def _id(question: str) -> str:
    return f"traffic-{hashlib.sha256(question.encode()).hexdigest()[:12]}"
