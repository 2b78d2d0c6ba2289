"""Verifiers: (problem, response) -> Score, by name.

Every verifier words its feedback alike, as four parts that `parse_feedback` reads back:

    input: {question}
    output: {response}
    expected: {answer}
    differs: {one line}

A user's verifier that raises scores 0 with the exception in the feedback; one that returns something that
is no score is a mistake to fix, and an error.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fst.data.answers import extract_choice, last_number
from fst.data.math_answers import same_math
from fst.data.types import Problem, Score, Verifier
from fst.errors import VerifierError

CORRECT = "nothing, correct"
ENTRY_POINT_GROUP = "fst.verifiers"

# The options of each verifier with their defaults; a default's type is the option's type.
_OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {"ignore_case": False, "strip": True},
    "numeric": {"tolerance": 1e-9, "relative_tolerance": 0.0},
    "regex": {"pattern": "", "ignore_case": False},
    "multiple_choice": {},
    "math": {},
}
_PYTHON = "python:"
_LONGEST_ITEM = 80


def feedback_text(problem: Problem, response: str, differs: str) -> str:
    """Feedback in the one form all verifiers use; `differs` is made a single line."""
    line = " ".join(differs.split())
    return f"input: {problem.question}\noutput: {response}\nexpected: {problem.answer}\ndiffers: {line}"


def parse_feedback(text: str) -> tuple[str, str] | None:
    """(question, expected) of a `feedback_text`, or None for any other text.

    The response may hold anything, the words of this form included; only a question with a line that starts
    with `output: ` or an answer with one that starts with `expected: ` is read wrongly.
    """
    body, found, _ = text.rpartition("\ndiffers: ")
    rest, found_expected, expected = body.rpartition("\nexpected: ")
    question, found_output, _ = rest.partition("\noutput: ")
    if not (found and found_expected and found_output and question.startswith("input: ")):
        return None
    return question.removeprefix("input: "), expected


def without_answer(text: str, reward: float) -> str:
    """A feedback text with nothing in it but input, output and reward."""
    body = text.rpartition("\ndiffers: ")[0] or text
    return f"{body.rpartition(chr(10) + 'expected: ')[0] or body}\nreward: {reward:g}"


def build_verifier(name: str, args: Mapping[str, Any]) -> Verifier:
    """The verifier called `name`, with `args` for its options.

    Raises VerifierError for an unknown name, an unknown option, a value of the wrong kind, a pattern that
    does not compile, and an entry point that cannot be loaded.
    """
    if name.startswith(_PYTHON):
        _check_args(name, args, {})
        return _scored(_load(name.removeprefix(_PYTHON)))
    if name not in _OPTIONS:
        raise VerifierError(f"unknown verifier {name!r}; known: {', '.join(known_verifiers())}")
    options = _check_args(name, args, _OPTIONS[name])
    makers: dict[str, Callable[..., Verifier]] = {
        "exact": _exact,
        "numeric": _numeric,
        "regex": _regex,
        "multiple_choice": _multiple_choice,
        "math": _math,
    }
    return makers[name](**options)


def known_verifiers() -> tuple[str, ...]:
    """Names `build_verifier` takes, installed entry points included."""
    return (*_OPTIONS, *sorted(_PYTHON + point.name for point in entry_points(group=ENTRY_POINT_GROUP)))


def _check_args(name: str, args: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    for key, value in args.items():
        if key not in options:
            raise VerifierError(f"verifier {name!r} has no option {key!r}; it takes: {', '.join(options) or 'none'}")
        kind = type(options[key])
        if kind is float:
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
        else:
            right = isinstance(value, kind)
        if not right:
            wanted = {bool: "true or false", float: "a number of 0 or more", str: "a text"}[kind]
            raise VerifierError(f"verifier {name!r}: option {key!r} must be {wanted}, not {value!r}")
    return {**options, **args}


def _verdict(problem: Problem, response: str, right: bool, differs: str) -> Score:
    return Score(float(right), feedback_text(problem, response, CORRECT if right else differs))


def _item_difference(got: list[str], want: list[str]) -> str:
    """The first difference of two token lists, as one line."""
    if not got:
        return "no answer"
    if len(got) != len(want):
        size = "short" if len(got) < len(want) else "long"
        return f"too {size}: {len(got)} item{'s' if len(got) > 1 else ''} instead of {len(want)}"
    for position, (g, w) in enumerate(zip(got, want, strict=True), start=1):
        if g != w:
            return f"position {position}: {g[:_LONGEST_ITEM]} instead of {w[:_LONGEST_ITEM]}"
    return "only the blanks between the items"


def _exact(ignore_case: bool, strip: bool) -> Verifier:
    """Equality of the texts; with `strip` runs of blanks count as one and those at the ends do not count."""

    def normal(text: str) -> str:
        text = " ".join(text.split()) if strip else text
        return text.casefold() if ignore_case else text

    def verify(problem: Problem, response: str) -> Score:
        got, want = normal(response), normal(problem.answer)
        return _verdict(problem, response, got == want, _item_difference(got.split(), want.split()))

    return verify


def _numeric(tolerance: float, relative_tolerance: float) -> Verifier:
    def verify(problem: Problem, response: str) -> Score:
        want, got = last_number(problem.answer), last_number(response)
        if want is None:
            raise VerifierError(f"problem {problem.id!r}: 'numeric' needs a number, not {problem.answer!r}")
        if got is None:
            return _verdict(problem, response, False, "no number in the output")
        near = abs(got - want) <= max(tolerance, relative_tolerance * abs(want))
        return _verdict(problem, response, near, f"{got:.12g} instead of {want:.12g}")

    return verify


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as exc:
        raise VerifierError(f"the pattern {pattern!r} is no regular expression: {exc}") from exc


def _regex(pattern: str, ignore_case: bool) -> Verifier:
    """A search for `pattern`, or without one for the problem's answer, anywhere in the response."""
    flags = int(re.IGNORECASE) if ignore_case else 0
    _compiled(pattern, flags)

    def verify(problem: Problem, response: str) -> Score:
        found = _compiled(pattern or problem.answer, flags).search(response) is not None
        return _verdict(problem, response, found, "the output does not match the expected pattern")

    return verify


def _multiple_choice() -> Verifier:
    def verify(problem: Problem, response: str) -> Score:
        want, got = extract_choice(problem.answer), extract_choice(response)
        if want is None:
            raise VerifierError(f"problem {problem.id!r}: 'multiple_choice' needs a letter A-E, not {problem.answer!r}")
        differs = f"{got} instead of {want}" if got else "no single letter in the output"
        return _verdict(problem, response, got == want, differs)

    return verify


def _math() -> Verifier:
    """Equality as mathematics (library math-verify, see `fst.data.math_answers`)."""

    def verify(problem: Problem, response: str) -> Score:
        try:
            equal = same_math(problem.answer, response)
        except TimeoutError as exc:
            return _verdict(problem, response, False, str(exc))
        if equal is None:
            raise VerifierError(f"problem {problem.id!r}: 'math' cannot read the answer {problem.answer!r}")
        return _verdict(problem, response, equal, "the output does not equal the expected value")

    return verify


def _load(name: str) -> Callable[..., Any]:
    """The callable behind an entry point of the group `fst.verifiers`."""
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        raise VerifierError(
            f"no entry point {name!r} in the group {ENTRY_POINT_GROUP!r}; known: {', '.join(known_verifiers())}. "
            "Declare it in the package that holds the function and install that package"
        )
    try:
        function: object = points[name].load()
    except Exception as exc:
        raise VerifierError(f"the verifier {_PYTHON + name!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not callable(function):
        raise VerifierError(f"the verifier {_PYTHON + name!r} is no function but a {type(function).__name__}")
    return function


def _scored(function: Callable[..., Any]) -> Verifier:
    """A user's (question, answer, response, meta) -> reward, or (reward, what differs), as a Verifier."""

    def verify(problem: Problem, response: str) -> Score:
        try:
            result = function(problem.question, problem.answer, response, problem.meta)
        except Exception as exc:
            return _verdict(problem, response, False, f"the verifier failed: {type(exc).__name__}: {exc}")
        reward, differs = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if not isinstance(reward, (int, float)) or not 0.0 <= reward <= 1.0 or not isinstance(differs, str | None):
            raise VerifierError(
                f"problem {problem.id!r}: the verifier returned {result!r}; it must return a reward "
                "from 0 to 1, or a pair (reward, text)"
            )
        differs = differs or (CORRECT if reward == 1.0 else f"reward {reward:g} of 1")
        return Score(float(reward), feedback_text(problem, response, differs))

    return verify
