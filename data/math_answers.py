"""Equality of answers as mathematics. This file alone imports math_verify.

The library limits its time with alarm signals, which work on the main thread only, so its limits are off.
Instead an output with an exponent or a factorial above 10,000 counts as unequal unread: a policy could
otherwise stop the run with `9^{9^9}`. Other slow expressions are not guarded against.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Any

_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_LARGEST_EXPONENT = 10_000


def _bound(node: Any) -> float:
    """A number that the absolute value of an expression does not exceed (infinite where floats end)."""
    parts = [_bound(arg) for arg in getattr(node, "args", ())]
    try:
        match type(node).__name__:
            case "Pow":
                return float(max(parts[0], 1.0) ** parts[1])
            case "Mul":
                return math.prod(parts)
            case "Add":
                return sum(parts)
            case "factorial":
                return math.gamma(parts[0] + 1)
        return max(parts) if parts else abs(float(node))
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 1.0


def _oversized(node: Any) -> bool:
    """Whether evaluating an expression could take longer than anyone waits: a power tower, a huge factorial."""
    args = getattr(node, "args", ())
    grows = type(node).__name__ in ("Pow", "factorial") and args and _bound(args[-1]) > _LARGEST_EXPONENT
    return bool(grows) or any(_oversized(arg) for arg in args)


@functools.lru_cache(maxsize=4096)
def parse_math(text: str) -> tuple[tuple[Any, ...], ...]:
    """The readings of a text, likeliest first: as it stands and, where it has no math delimiters and no
    words, as if all of it were LaTeX. A reading is an expression in the library's forms; none is empty."""
    from math_verify import parse

    delimited = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
    bare = not delimited and _WORD.search(text) is None
    attempts = (f"${text.strip()}$", text) if bare else (text,)
    readings = (tuple(parse(attempt, parsing_timeout=None)) for attempt in attempts)
    return tuple(reading for reading in readings if reading)


def same_math(answer: str, response: str) -> bool:
    """Whether a reading of the response equals the likeliest reading of the answer.

    Raises ValueError when the answer holds no expression.
    """
    from math_verify import verify

    if not parse_math(answer):
        raise ValueError(f"no mathematical expression in {answer!r}")
    gold = list(parse_math(answer)[0])
    return any(
        verify(gold, list(reading), timeout_seconds=None)
        for reading in parse_math(response)
        if not any(_oversized(node) for node in reading)
    )
