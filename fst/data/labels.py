"""Labels: finds the one that a response settles on, and derives the labels of problems that do not list them.

Labels are compared by their words, ignoring case and punctuation: `Password reset`, `password_reset` and `password
reset.` are the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fst.data.answers import NO_ANSWER
from fst.data.scoring import verdict
from fst.data.types import Problem, Score, Verifier
from fst.errors import VerifierError

NAME = "choice"
MOST_LABELS = 50  # that may be derived from a domain's answers, or named in its seed prompt
_WORD = re.compile(r"[^\W_]+")
_SHOWN = 12
_REMEDY = f'name them: "verifier": {{"name": "{NAME}", "labels": ["billing", "login"]}}'

Words = tuple[str, ...]


def choice(labels: tuple[str, ...] = ()) -> Verifier:
    """Make a verifier that compares the label a response settles on: the only one in it, or else in its last line. A
    response that names two settles on neither. Raises VerifierError if there are no labels, or two with equal words."""
    known = _by_words(labels)

    def verify(problem: Problem, response: str) -> Score:
        want = known.get(_words(problem.answer))
        if want is None:
            raise VerifierError(
                f"problem {problem.id!r}: {problem.answer!r} is no label of {NAME!r}; its labels are {_listed(labels)}"
            )
        found = settled_on(response, known)
        if len(found) == 1:
            return verdict(problem, response, found[0] == want, f"{found[0]} instead of {want}")
        if found:
            return verdict(problem, response, False, f"the output names {' and '.join(found)}; it must settle on one")
        return verdict(
            problem, response, False, f"{NO_ANSWER} found: no label in the output; the labels are {_listed(labels)}"
        )

    return verify


def settled_on(response: str, known: Mapping[Words, str]) -> list[str]:
    """Return the labels that a response names, in order; just one if the response, or its last line, settles on one.
    `known` has the labels by their words."""
    found = list(dict.fromkeys(_named(_words(response), known)))
    if len(found) > 1:
        last = [line for line in response.splitlines() if line.strip()][-1]
        in_last = list(dict.fromkeys(_named(_words(last), known)))
        found = in_last if len(in_last) == 1 else found
    return found


def labels_of(answers: Sequence[str]) -> list[str]:
    """Derive labels from answers: the distinct ones, in alphabetical order.

    Raises VerifierError for answers that do not look like labels: more than 50 different ones, or one that only a
    single problem has. Feedback lists the labels, and so never reveals the answer to one particular problem.
    """
    times = Counter(map(_words, answers))
    once = next((answer for answer in answers if times[_words(answer)] == 1), None)
    if len(times) > MOST_LABELS:
        raise VerifierError(f"{NAME!r}: {len(times)} different answers are too many to be labels; {_REMEDY}")
    if once is not None:
        raise VerifierError(
            f"{NAME!r}: the answer {once[:60]!r} is there once only, so the answers are not taken as labels; {_REMEDY}"
        )
    first = {_words(answer): answer.strip() for answer in reversed(answers)}
    return sorted(first.values())


def lists_none(named: Mapping[str, Any]) -> bool:
    """Whether a verifier, by its name and options, is a `choice` that does not list its labels."""
    return named.get("name") == NAME and "labels" not in named


def named_labels(named: Mapping[str, Any]) -> list[str]:
    """Return the labels that a verifier, by its name and options, lists; empty if it is no `choice`."""
    return list(named.get("labels", ())) if named.get("name") == NAME else []


def asked_for(labels: Sequence[str], text: str) -> str:
    """Return the line that a prompt asks for one of the labels with; empty without labels, with more than MOST_LABELS,
    or if `text` names every one of them."""
    if not 0 < len(labels) <= MOST_LABELS or set(_named(_words(text), _by_words(labels))) == set(labels):
        return ""
    return f"Answer with one of: {', '.join(labels)}."


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.casefold()))


def _by_words(labels: Sequence[str]) -> dict[Words, str]:
    """Map the words of each label to the label. Raises VerifierError."""
    if not labels:
        raise VerifierError(f"{NAME!r} has no labels; {_REMEDY}")
    known: dict[Words, str] = {}
    for label in labels:
        words = _words(label)
        if not words:
            raise VerifierError(f"{NAME!r}: the label {label!r} has no letter or digit; write it in words")
        if words in known:
            raise VerifierError(f"{NAME!r}: the labels {known[words]!r} and {label!r} read the same; keep one")
        known[words] = label
    return known


def _named(words: Words, known: Mapping[Words, str]) -> Iterator[str]:
    """Yield the labels in a text's words; if several begin at a word, the longest, which uses up its words."""
    longest = max(map(len, known))
    place = 0
    while place < len(words):
        size = next((n for n in range(longest, 0, -1) if words[place : place + n] in known), 0)
        if size:
            yield known[words[place : place + size]]
        place += size or 1


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:_SHOWN])
    return shown if len(labels) <= _SHOWN else f"{shown} and {len(labels) - _SHOWN} more"
