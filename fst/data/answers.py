r"""Finds the answer in a response, which is the part that a verifier compares.

Models reason before they answer, and wrap the answer in words and markup. How it is found is a setting of the domain
(`domains.NAME.answer`, `--answer`, `SPEC#MODE`, or `answer` among a problem's verifier options):

    whole      the whole text, unchanged
    last_line  the last line, or as many lines as the right answer has
    tag        the last <answer> element
    boxed      the last \boxed{...}
    marker     the text after the last "Answer:", "The answer is", "####" and the like, in several languages
    auto       tag, else boxed, else marker, else what the verifier looks for: the last number, the last line ...

Thinking (`<think> ... </think>`, also if the chat template opened it, or if it never ends) is not part of an answer. In
every mode, a response that is exactly the right answer is read as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fst.data.numbers import ENGLISH, first_number, last_number
from fst.errors import FstError, VerifierError
from fst.tables import did_you_mean
from fst.types import ANSWER_MODES, AnswerMode

NO_ANSWER = "no answer"  # how the remark on a response without a readable answer begins
ASKED: Mapping[AnswerMode, str] = {
    "last_line": "Give the final answer alone on the last line.",
    "tag": "Give the final answer between <answer> and </answer>.",
    "boxed": r"Give the final answer in \boxed{}.",
    "marker": "End with the final answer on a line that begins with 'Answer:'.",
}


@dataclass(frozen=True)
class Part:
    """The part of a response that contains its answer. `want` is the right answer; `marked` is whether the response
    itself marks this part as its answer. Otherwise the part is everything except the thinking."""

    text: str
    want: str
    marked: bool


Narrow = Callable[[Part, Mapping[str, Any]], str]  # what a verifier reads of a part, by the verifier's options


def find_answer(response: str, mode: AnswerMode, want: str, narrow: Callable[[Part], str]) -> str | None:
    """Find the answer in a response; returns None if it gives none. `narrow` extracts what the verifier reads from the
    part that was found."""
    if response.strip() == want.strip():
        return response
    text = without_thinking(response)
    if mode == "whole":
        return text if text or not response else None
    if mode == "last_line":
        text = last_lines(text, want)
        return narrow(Part(text, want, False)) if text else None
    marked = _marked(text, mode, want)
    if marked is not None:
        return narrow(Part(marked, want, True))
    return narrow(Part(text, want, False)) if mode == "auto" and text.strip() else None


def known_mode(asked: Any, where: str, error: type[FstError] = VerifierError) -> AnswerMode:
    """Check the name of a mode and return it. Raises `error`, with a message that begins with `where`, if it is
    unknown."""
    for mode in ANSWER_MODES:
        if mode == asked:
            return mode
    hint = did_you_mean(str(asked), ANSWER_MODES)
    raise error(f"{where}: answers cannot be found by {asked!r}, only by {', '.join(ANSWER_MODES)}{hint}")


def marked_answer(text: str) -> str | None:
    """Return what a text itself marks as its answer, by a tag, a box or words; None if nothing is marked."""
    return _marked(text, "auto", "")


def _marked(text: str, mode: AnswerMode, want: str) -> str | None:
    for find in _FINDERS[mode]:
        found = find(text, want)
        if found is not None:
            inner = _in_box(found, want) if find is _in_tag and "\\boxed" not in want else None
            return found if inner is None else inner
    return None


# -- thinking -----------------------------------------------------------------------------------------------

_NAME = r"(?:think|thinking|thought|reasoning)"
_OPEN, _CLOSE = rf"(?i:[<\[]{_NAME}[>\]])", rf"(?i:[<\[]/{_NAME}[>\]])"
_THOUGHT, _OPENED, _CLOSED = (re.compile(p, re.DOTALL) for p in (f"{_OPEN}.*?{_CLOSE}", _OPEN, _CLOSE))


def without_thinking(text: str) -> str:
    """Remove the thinking from a response: whole elements, everything before a closing tag without an opening one
    (which the template wrote), and everything after an opening tag without a closing one. Other texts stay as they
    are."""
    if not (_OPENED.search(text) or _CLOSED.search(text)):
        return text
    return _OPENED.split(_CLOSED.split(_THOUGHT.sub("", text))[-1])[0].strip()


# -- marked answers -----------------------------------------------------------------------------------------

_ELEMENT = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_LAST_ELEMENT = re.compile(r"<answer>((?:(?!<answer>).)*)\Z", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed\s*\{")

_NOUNS = (
    r"(?:(?:final|correct|right)\s+)?answers?|antwort|réponse|respuesta|risposta|resposta|antwoord|odpowiedź|ответ|svar|"
    r"cevap|答案|答え|答|정답|답|الإجابة|الجواب|उत्तर"
)
_IS = (
    r"(?:\s+(?:is|are|was|would be|should be|must be|equals|ist|lautet|est|es|è|é|är)\b\s*[:\uff1a]?|"
    r"\s*(?:是|为|為|は|は、)\s*[:\uff1a]?|\s*[:\uff1a=])"
)
_MARKUP = r"[ \t*_`]*"
_MARKER = re.compile(
    rf"(?<![A-Za-zÀ-ÿЀ-ӿ])(?:{_NOUNS})(?:\s+(?:to|of|for)\s[^.:\n]{{1,80}}?)?{_MARKUP}{_IS}{_MARKUP}", re.IGNORECASE
)
_HEADING = re.compile(rf"^[ \t#*_>]*(?:{_NOUNS})[ \t#*_:\uff1a]*$", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?=\S)[^\n]*\s*\Z", re.MULTILINE)
_JSON = re.compile(r'"(?:final_)?answer"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",{}\[\]]+))', re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[^\s.])[.!?](?=[\s*]|$)|[。\uff01\uff1f]")
_REASON = re.compile(r",?\s+(?:because|since)\s", re.IGNORECASE)


def _in_tag(text: str, want: str) -> str | None:
    """The content of the last non-empty answer element; if none is closed, that of an unclosed one."""
    found = [match[1].strip() for match in _ELEMENT.finditer(text)] or [
        m[1].strip() for m in _LAST_ELEMENT.finditer(text)
    ]
    return next((content for content in reversed(found) if content), None)


def _in_box(text: str, want: str) -> str | None:
    """The content of the last box that is non-empty and closed."""
    for opening in reversed(list(_BOX.finditer(text))):
        depth = 1
        for place in range(opening.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                if content := text[opening.end() : place].strip():
                    return content
                break
    return None


def _in_json(text: str, want: str) -> str | None:
    """The last value of a JSON key `answer`, a text or a number."""
    found = [text or number for text, number in _JSON.findall(text)]
    return found[-1].strip() or None if found else None


def _behind_marker(text: str, want: str) -> str | None:
    """The text after the last marker, on its line or below it: as many lines as the right answer has, and of a single
    line only the first sentence."""
    places = [match.end() for pattern in (_MARKER, _HEADING) for match in pattern.finditer(text)]
    places += [match.start() + match[0].index("####") + 4 for match in _HASHES.finditer(text)]
    for place in sorted(places, reverse=True):
        below = _lines(text[place:])[: _height(want)]
        if len(below) == 1:
            below = [_first_sentence(below[0], want)]
        if any(line.strip(" \t*_`#:.") for line in below):
            return "\n".join(below)
    return None


def _first_sentence(line: str, want: str) -> str:
    for end in (_SENTENCE_END, _REASON):
        if not end.search(want.strip().rstrip(".!?")):
            line = end.split(line, maxsplit=1)[0]
    return line.strip()


_FINDERS: Mapping[AnswerMode, tuple[Callable[[str, str], str | None], ...]] = {
    "tag": (_in_tag,),
    "boxed": (_in_box,),
    "marker": (_in_json, _behind_marker),
    "auto": (_in_tag, _in_box, _in_json, _behind_marker),
}


# -- what a verifier reads of a part ------------------------------------------------------------------------


def as_it_is(part: Part, options: Mapping[str, Any]) -> str:
    """The part itself."""
    return part.text


def alone(part: Part, options: Mapping[str, Any]) -> str:
    """The part without markup around it; if it is not marked, only its last line, or as many as the right answer
    has."""
    return _bare(part.text if part.marked else last_lines(part.text, part.want), part.want)


def a_number(part: Part, options: Mapping[str, Any]) -> str:
    """The first number of a marked part, the last one of any other; the part itself if it has no number."""
    number = (first_number if part.marked else last_number)(part.text, options.get("locale", ENGLISH))
    return number.text if number else part.text


def last_lines(text: str, want: str) -> str:
    """The last lines of a text, as many as `want` has, not counting blank lines and code fences."""
    return "\n".join(_lines(text)[-_height(want) :])


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not re.fullmatch(r"\s*```\w*\s*", line)]


def _height(text: str) -> int:
    return max(1, len(_lines(text)))


_PAIRS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("«", "»"),
    ("「", "」"),
)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")


def _bare(text: str, want: str) -> str:
    """Strip code fences, emphasis, quotes, a bullet and the final full stop from a text, except those that the right
    answer has as well."""
    text, want = "\n".join(_lines(text)), want.strip()
    while True:
        shorter = text.strip()
        for mark in "*`":
            if not want.startswith(mark) and not want.endswith(mark):
                shorter = shorter.strip(mark)
        for first, last in _PAIRS:
            inner = shorter[len(first) : -len(last)]
            if shorter == f"{first}{inner}{last}" and inner and first not in inner and not want.startswith(first):
                shorter = inner
        if (wrapped := _WRAPPED.fullmatch(shorter)) and not want.startswith("\\"):
            shorter = wrapped[1]
        if shorter[:2] in ("- ", "• ", "> ") and want[:2] != shorter[:2]:
            shorter = shorter[2:]
        if shorter[-1:] in tuple(".。!,;") and want[-1:] != shorter[-1:]:
            shorter = shorter[:-1]
        if shorter == text:
            return text
        text = shorter
