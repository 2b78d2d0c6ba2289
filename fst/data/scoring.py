"""Scores responses: finds the answer (fst/data/answers.py), compares it with the right one (fst/data/verifiers.py lists
the ways by name), and writes feedback, which has the same form for all verifiers:

    input: {question}
    output: {response}
    expected: {answer}
    hint: {one line}        for a wrong answer, if the problem has its own `feedback`
    differs: {one line}
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace

from fst.data import numbers
from fst.data.answers import ASKED, NO_ANSWER, Part, find_answer, marked_answer
from fst.data.math_answers import same_math, same_text
from fst.data.types import Problem, Score, Verifier
from fst.errors import VerifierError
from fst.types import AnswerMode

CORRECT = "nothing, correct"
RAISED = "the verifier failed: "  # beginning of `differs` if a user's verifier raised an exception
_HINT = "\nhint: "
_LONGEST_ITEM = 80

_CUED = re.compile(
    r"\b(?i:answer|choice|option)\b(?:\s+is\b)?\s*[:=]?[\s*$(\[\"']*(?:\\boxed\{|\\text\{)*"
    r"(?:([A-E])\b|([a-e])\b(?!\s+[a-z]))"
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Ea-e])\)?\}")
_WHOLE = re.compile(r"[\s*$(\[\"']*([A-Ea-e])[\s*$)\].:\"']*")
_BRACKETED = re.compile(r"\(([A-E])\)")
_LONE = re.compile(r"(?<![\w'])(?:([B-E])|(A)(?!\s+[a-z]))(?![\w'])")


def feedback_text(problem: Problem, response: str, differs: str) -> str:
    """Write feedback in the form above. The hint is the problem's own feedback, if it has any and `differs` is not
    CORRECT; hint and `differs` are each put on a single line."""
    hint = f"{_HINT}{one_line(problem.feedback)}" if problem.feedback and differs != CORRECT else ""
    return (
        f"input: {problem.question}\noutput: {response}\nexpected: {problem.answer}{hint}\ndiffers: {one_line(differs)}"
    )


def one_line(text: str) -> str:
    """Put a text on one line: every run of white space becomes one space."""
    return " ".join(text.split())


def verdict(problem: Problem, response: str, right: bool, differs: str) -> Score:
    """Make a score of 1 or 0; `differs` says what is wrong with a response that is not right."""
    return Score(float(right), feedback_text(problem, response, CORRECT if right else differs))


def remark(text: str) -> str:
    """Return the last part of a feedback text, after input, output and expected answer; all of a text of another
    form."""
    return text.rpartition("\ndiffers: ")[2] if parse_feedback(text) else text


def parse_feedback(text: str) -> tuple[str, str] | None:
    """Return (question, expected) of a `feedback_text`, or None for any other text.

    The response may contain anything, including the words of this form; only a question with a line that starts
    with `output: `, or an answer with one that starts with `expected: ` or `hint: `, is read wrongly.
    """
    body, found, _ = text.rpartition("\ndiffers: ")
    rest, found_expected, expected = body.rpartition("\nexpected: ")
    question, found_output, _ = rest.partition("\noutput: ")
    if not (found and found_expected and found_output and question.startswith("input: ")):
        return None
    return question.removeprefix("input: "), expected.partition(_HINT)[0]


def without_answer(text: str, reward: float) -> str:
    """Reduce a feedback text to input, output and reward."""
    body = text.rpartition("\ndiffers: ")[0] or text
    return f"{body.rpartition(chr(10) + 'expected: ')[0] or body}\nreward: {reward:g}"


def reading(verify: Verifier, mode: AnswerMode, narrow: Callable[[Part], str]) -> Verifier:
    """Wrap a verifier so that it gets the answer found in a response by `mode` and narrowed by `narrow`. The feedback
    shows the response as it was, and a wrong answer as it was read."""

    def verified(problem: Problem, response: str) -> Score:
        answer = find_answer(response, mode, problem.answer, narrow)
        if answer is None:
            why = ASKED.get(mode, "The output holds nothing beside thinking." if response else "The output is empty.")
            return verdict(problem, response, False, f"{NO_ANSWER} found. {why}")
        score = verify(problem, answer)
        line = remark(score.feedback)
        read = None if line.startswith(NO_ANSWER) else answer
        if answer == response or parse_feedback(score.feedback) is None:
            return replace(score, read=read)
        if score.reward < 1 and read is not None and read.strip() != response.strip():
            line = f"{line} (the answer read is {_shown(read)})"
        return Score(score.reward, feedback_text(problem, response, line), read)

    return verified


def cut_off(feedback: str, limit: int) -> str:
    """Add to a feedback text that the response was cut off; `limit` is in tokens."""
    return f"{feedback}; the output was cut off at {limit} tokens"


def _shown(text: str) -> str:
    line = one_line(text)
    return repr(line if len(line) <= _LONGEST_ITEM else f"{line[:_LONGEST_ITEM]}...")


def last_number(text: str, locale: str = numbers.ENGLISH) -> float | None:
    """Return the value of the last number in a text (`1,234.5`, `-3`, `2e-4`, `1/2`, see fst/data/numbers.py); None if
    there is none or it overflows."""
    found = numbers.last_number(text, locale)
    return found.value if found else None


def extract_choice(text: str) -> str | None:
    """Return the letter A-E that a text settles on; None if it names none or several.

    Tried in this order: the whole text is a letter, a boxed letter, `answer: B`, then the only letter in brackets
    or on its own, in the whole text or else in its last line.
    """
    if whole := _WHOLE.fullmatch(text):
        return whole[1].upper()
    for pattern in (_BOXED, _CUED):
        if found := list(pattern.finditer(text)):
            return next(group for group in found[-1].groups() if group).upper()
    lines = [line for line in text.splitlines() if line.strip()]
    for part in (text, *lines[-1:]):
        for pattern in (_BRACKETED, _LONE):
            letters = {next(group for group in match.groups() if group) for match in pattern.finditer(part)}
            if len(letters) == 1:
                return letters.pop()
    return None


def exact(ignore_case: bool = False, strip: bool = True) -> Verifier:
    """Compare texts for equality; with `strip`, runs of white space count as one space and are ignored at the ends."""

    def normal(text: str) -> str:
        text = one_line(text) if strip else text
        return text.casefold() if ignore_case else text

    def verify(problem: Problem, response: str) -> Score:
        got, want = normal(response), normal(problem.answer)
        return verdict(problem, response, got == want, _item_difference(got.split(), want.split()))

    return verify


def _item_difference(got: list[str], want: list[str]) -> str:
    """Describe the first difference between two lists of items, on one line."""
    if not got:
        return "no answer"
    if len(got) != len(want):
        size = "short" if len(got) < len(want) else "long"
        return f"too {size}: {len(got)} item{'s' if len(got) > 1 else ''} instead of {len(want)}"
    for position, (g, w) in enumerate(zip(got, want, strict=True), start=1):
        if g != w:
            return f"position {position}: {g[:_LONGEST_ITEM]} instead of {w[:_LONGEST_ITEM]}"
    return "only the blanks between the items"


def numeric(tolerance: float = 1e-9, relative_tolerance: float = 0.0, locale: str = numbers.ENGLISH) -> Verifier:
    """Compare the last number of the response with the answer's, within an absolute or relative distance. Units are
    ignored, and 50% equals both 0.5 and 50. `locale` decides what 1.234 means; unambiguous numbers (3,14) are read in
    any. If the answer marks its result (a rationale with `#### 72`), the number after the mark is taken."""
    numbers.check_locale(locale)

    def verify(problem: Problem, response: str) -> Score:
        marked = marked_answer(problem.answer)
        want = numbers.first_number(marked, locale) if marked else numbers.last_number(problem.answer, locale)
        if want is None:
            raise VerifierError(f"problem {problem.id!r}: 'numeric' needs a number, not {problem.answer!r}")
        if response == problem.answer:
            return verdict(problem, response, True, "")
        got = numbers.last_number(response, locale)
        if got is None:
            return verdict(problem, response, False, f"{NO_ANSWER} found: no number in the output")
        near = got.near(want, tolerance, relative_tolerance)
        return verdict(problem, response, near, f"{got.value:.12g} instead of {want.value:.12g}")

    return verify


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as exc:
        raise VerifierError(f"the pattern {pattern!r} is no regular expression: {exc}") from exc


def regex(pattern: str = "", ignore_case: bool = False, search: bool = False) -> Verifier:
    """Match the whole answer with `pattern`, or by default with the problem's answer as the pattern; with `search`,
    match any part of the response."""
    flags = int(re.IGNORECASE) if ignore_case else 0
    _compiled(pattern, flags)

    def verify(problem: Problem, response: str) -> Score:
        compiled = _compiled(pattern or problem.answer, flags)
        found = compiled.search(response) if search else compiled.fullmatch(response.strip())
        return verdict(problem, response, found is not None, "the output does not match the expected pattern")

    return verify


def multiple_choice() -> Verifier:
    """Compare the letter A-E that the response settles on."""

    def verify(problem: Problem, response: str) -> Score:
        want, got = extract_choice(problem.answer), extract_choice(response)
        if want is None:
            raise VerifierError(f"problem {problem.id!r}: 'multiple_choice' needs a letter A-E, not {problem.answer!r}")
        differs = f"{got} instead of {want}" if got else f"{NO_ANSWER} found: no single letter in the output"
        return verdict(problem, response, got == want, differs)

    return verify


def math_equality() -> Verifier:
    """Compare answers as mathematics (library math-verify, see fst/data/math_answers.py). An answer that is not
    mathematics (`\\text{even}`, `\\$32,348`) is compared as a number, or as a text without markup."""

    def verify(problem: Problem, response: str) -> Score:
        try:
            equal = same_math(problem.answer, response)
        except TimeoutError as exc:
            return verdict(problem, response, False, str(exc))
        if equal is None:
            equal = same_text(problem.answer, response)
        return verdict(problem, response, equal, "the output does not equal the expected value")

    return verify
