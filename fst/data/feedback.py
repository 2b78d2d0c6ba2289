"""Feedback on a response: one form for all verifiers, written and read back here.

input: {question}
output: {response}
expected: {answer}
differs: {one line}
"""

from __future__ import annotations

from fst.data.types import Problem, Score

CORRECT = "nothing, correct"


def feedback_text(problem: Problem, response: str, differs: str) -> str:
    """The four parts; `differs` is made a single line."""
    line = " ".join(differs.split())
    return f"input: {problem.question}\noutput: {response}\nexpected: {problem.answer}\ndiffers: {line}"


def verdict(problem: Problem, response: str, right: bool, differs: str) -> Score:
    """A score of 1 or 0; `differs` says what is wrong with a response that is not right."""
    return Score(float(right), feedback_text(problem, response, CORRECT if right else differs))


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
