"""Reading an answer out of a response: its last number, the letter it settles on."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+])?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?"
)
_CUED = re.compile(
    r"\b(?i:answer|choice|option)\b(?:\s+is\b)?\s*[:=]?[\s*$(\[\"']*(?:\\boxed\{|\\text\{)*"
    r"(?:([A-E])\b|([a-e])\b(?!\s+[a-z]))"
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-Ea-e])\)?\}")
_WHOLE = re.compile(r"[\s*$(\[\"']*([A-Ea-e])[\s*$)\].:\"']*")
_BRACKETED = re.compile(r"\(([A-E])\)")
_LONE = re.compile(r"(?<![\w'])(?:([B-E])|(A)(?!\s+[a-z]))(?![\w'])")


def last_number(text: str) -> float | None:
    """The last number in a text (`1,234.5`, `-3`, `2e-4`), None where there is none or it overflows."""
    found = _NUMBER.findall(text.replace("\u2212", "-"))
    value = float(found[-1].replace(",", "")) if found else math.inf
    return value if math.isfinite(value) else None


def extract_choice(text: str) -> str | None:
    """The letter A-E a text settles on, None where it names none or cannot decide.

    In this order: the whole text is a letter, a boxed letter, `answer: B`, then the only letter in brackets
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
