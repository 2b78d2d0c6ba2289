"""Reads numbers in a text, as people and models write them. Only this file imports babel, which knows how each language
groups digits and marks decimals.

It reads `1,234.5`, `-3`, `2e-4`, `3 x 10^-4`, `1/2`, `3 1/2`, `½`, `50%`, the LaTeX forms of these, digits of any
script, and the forms of other languages if they are unambiguous (`3,14`, `1.234,50`, `1'234`). It does not read
exponents (the 2 of `cm^2`) and numbers that are part of a word (`H2O`).
"""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from fst.errors import VerifierError

ENGLISH = "en"
_OTHERS = ("de", "fr", "de_CH", "en_IN")  # 1.234,5   1 234,5   1'234.5   12,34,567
_LONGEST = 400  # characters; a float of more digits overflows

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# Minus, percent and multiplication signs, Arabic separators, the slash of fractions, the apostrophe and full-width
# characters in one form each. The full-width comma stands between numbers, never in one.
_SAME = str.maketrans(
    {"\u2212": "-", "\u066a": "%", "\u00d7": "*", "\u066b": ".", "\u066c": ",", "\u2044": "/", "'": "\u2019"}
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | {"\uff0c": " "}
)
_LATEX = (
    (re.compile(r"(?<=\d)(?:\\[,;!]|\{,\}|~)(?=\d{3})"), ","),
    (re.compile(r"\\[dt]?frac\s*(\d)(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"(\d?)\s*\\[dt]?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*([\d.]+)\s*\}"), r"\1 \2/\3"),
    (re.compile(r"(?<=[-+]) (?=\d+/\d)"), ""),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\([%$])"), r"\1"),
)
_EXPONENT = re.compile(r"(?<!10)\^\{?[-+]?\w+\}?")
_NUMBER = re.compile(
    r"(?P<sign>(?<![A-Za-z0-9_.)\]])[-+])?(?<![A-Za-z0-9_^])"
    r"(?P<digits>\d+(?:/\d+){2,}|\d+(?:[.,\u2019\u00a0\u202f\u2009]\d+)*|\.\d+)"
    r"(?:[eE](?P<exponent>[-+]?\d+)(?!\w)|\s*[x*·]\s*10\^\{?(?P<power>[-+]?\d+)\}?|(?<=10)\^\{?(?P<ten>[-+]?\d+)\}?)?"
    r"(?P<fraction>(?:\s+(?P<over>\d+))?\s*/\s*(?P<under>\d+)(?![\d/]|\.\d))?"
    r"(?P<percent>\s*(?:%|per\s?cent\b))?"
)
_ASIDE = re.compile(r"(?<!\\)\((?=[^()]*[^\W\d_]{2})[^()]*\)")  # words in brackets
_RESULT = re.compile(r"[=≈]|\\approx")


@dataclass(frozen=True)
class Number:
    """A number in a text: its value, whether a percent sign follows (`50%` has the value 50), and how it is written."""

    value: float
    percent: bool
    text: str

    def near(self, other: Number, tolerance: float, relative: float) -> bool:
        """Whether this number is within an absolute or relative distance of `other`. Compared with a number without a
        percent sign, `50%` counts as both 50 and 0.5."""
        if self.percent == other.percent:
            pairs = [(self.value, other.value)]
        elif self.percent:
            pairs = [(self.value, other.value), (self.value / 100, other.value)]
        else:
            pairs = [(self.value, other.value), (self.value, other.value / 100)]
        return any(abs(got - want) <= max(tolerance, relative * abs(want)) for got, want in pairs)


def last_number(text: str, locale: str = ENGLISH) -> Number | None:
    """Return the last number of a text, preferably outside of remarks in brackets (`42 (see step 3)`); None if it has
    none. Raises VerifierError for an unknown locale."""
    found = _outside_asides(text, locale)
    return found[-1] if found else None


def first_number(text: str, locale: str = ENGLISH) -> Number | None:
    """Return the first number of a text that is known to be an answer: after the last `=`, if there is one, and
    preferably outside of remarks in brackets; None if it has none. Raises VerifierError for an unknown locale."""
    found = _outside_asides(_RESULT.split(text)[-1], locale) or _outside_asides(text, locale)
    return found[0] if found else None


def _outside_asides(text: str, locale: str) -> list[Number]:
    return list(numbers(_ASIDE.sub(" ", text), locale)) or list(numbers(text, locale))


def numbers(text: str, locale: str = ENGLISH) -> Iterator[Number]:
    """Yield the numbers of a text in order, without those too large for a float. Digits that no language would write as
    one number (`1,2,3`, a date) are read as several. Raises VerifierError for an unknown locale."""
    for match in _NUMBER.finditer(_plain(text, locale)):
        value = _decimal(match["digits"], locale)
        if value is None:
            parts = [part for part in re.split(r"\D", match["digits"]) if 0 < len(part) < _LONGEST]
            yield from (Number(float(part), False, part) for part in parts)
            continue
        with contextlib.suppress(ArithmeticError):  # a division by zero, or more than a float holds
            yield Number(_value(match, Fraction(value)), bool(match["percent"]), match[0].strip())


def check_locale(locale: str) -> None:
    """Raise VerifierError for an unknown locale."""
    from babel import Locale, UnknownLocaleError

    try:
        Locale.parse(locale)
    except (ValueError, UnknownLocaleError, TypeError) as exc:
        raise VerifierError(f"the locale {locale!r} is unknown; write one like en, de, fr or pt_BR") from exc


def _plain(text: str, locale: str) -> str:
    """Normalise a text: digits, signs and fractions in one form, and no exponents."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = "".join(char if char.isascii() else _digit(char) for char in text).translate(_SAME)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    if _group_symbol(locale).isspace():
        text = re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "\u202f", text)
    return _EXPONENT.sub(" ", text)


def _digit(char: str) -> str:
    """Convert a digit of any script to ASCII, and `½` to ` 1/2`; any other character is returned unchanged."""
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    value = unicodedata.numeric(char, 0) if unicodedata.category(char) == "No" else 0
    return f" {Fraction(value).limit_denominator(100)}" if 0 < value < 1 else char


def _value(match: re.Match[str], value: Fraction) -> float:
    """Compute the value of a match, given that of its digits. Raises ArithmeticError if it is not a float."""
    exponent = int(match["exponent"] or match["power"] or 0)
    if match["ten"] and value == 10:
        value, exponent = Fraction(1), int(match["ten"])
    if abs(exponent) > _LONGEST:
        raise OverflowError(exponent)
    value *= Fraction(10) ** exponent
    if match["over"]:
        value += Fraction(int(match["over"]), int(match["under"]))
    elif match["under"]:
        value /= int(match["under"])
    return float(-value if match["sign"] == "-" else value)


@functools.lru_cache(maxsize=4096)
def _decimal(digits: str, locale: str) -> Decimal | None:
    """Parse digits with separators as the locale writes numbers, or else as the first other language that fits."""
    from babel.numbers import parse_decimal

    if len(digits) > _LONGEST:
        return None
    for name in (locale, *(other for other in (ENGLISH, *_OTHERS) if other != locale)):
        group = _group_symbol(name)
        written = re.sub(r"\s", group, digits) if group.isspace() else digits
        with contextlib.suppress(ValueError):  # of which babel's NumberFormatError is one
            return parse_decimal(written, locale=name, strict=True)
    return None


@functools.lru_cache(maxsize=64)
def _group_symbol(locale: str) -> str:
    from babel.numbers import get_group_symbol

    check_locale(locale)
    return get_group_symbol(locale)
