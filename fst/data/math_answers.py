"""Compares answers as mathematics. Only this file imports math_verify.

The library limits its time with alarm handlers, which work only on the main thread and do not interrupt arithmetic
on huge numbers: an answer like `9^9^9^9` would block the run. So it runs in a separate process, which is started on
first use and does one comparison at a time. If one takes too long, the system's processor timer ends the process, and
it is replaced. A busy machine does not change a verdict, as the timer counts only the process's own CPU time.
"""

from __future__ import annotations

import atexit
import re
import signal
import threading
from typing import TYPE_CHECKING, Any

from fst.data.numbers import last_number

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

SECONDS = 5.0
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def same_math(answer: str, response: str) -> bool | None:
    """Whether a reading of the response equals the likeliest reading of the answer; None if the answer contains no
    expression. Raises TimeoutError if the comparison takes more than `SECONDS` of processor time."""
    with _lock:
        return _comparer.compare(answer, response)


def same_text(answer: str, response: str) -> bool:
    """Whether a response, or its last line, equals an answer that contains no expression: as a number if the answer is
    one apart from markup and currency, otherwise as a text without markup and case."""
    want, tried = _words(answer), [response, *response.strip().splitlines()[-1:]]
    if re.fullmatch(r"[\W_]*[\d.,]+[\W_]*", want) and (number := last_number(want)):
        return any((got := last_number(_words(text))) and got.near(number, 1e-9, 0) for text in tried)
    return bool(want) and any(_words(text) == want for text in tried)


def _words(text: str) -> str:
    """Normalise a text: without LaTeX markup, in lower case, with single spaces."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|boxed|f?box)(?=\s*\{)|\\[,;!()\[\]]|[{}$\\*`]", "", text)
    return " ".join(text.split()).strip(" .!\"'").casefold()


def _readings(text: str) -> list[list[Any]]:
    """Parse a text into its non-empty readings, the likeliest first: the text itself and, if it has no math delimiters
    and no words, the text as LaTeX. A reading is a list of the library's forms of an expression."""
    from math_verify import parse

    delimited = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
    bare = not delimited and _WORD.search(text) is None
    attempts = (f"${text.strip()}$", text) if bare else (text,)
    return [reading for attempt in attempts if (reading := parse(attempt, parsing_timeout=None))]


def _compare(answer: str, response: str) -> bool | None:
    from math_verify import verify

    gold = _readings(answer)
    if not gold:
        return None
    return any(verify(gold[0], reading, timeout_seconds=None) for reading in _readings(response))


def _serve(connection: Connection) -> None:
    """Run in the process: send a verdict for each pair received, False for one that the library cannot compare. The
    timer's signal has no handler, so it ends the process at any point."""
    import logging

    import math_verify  # noqa: F401 - loaded before the first comparison is timed

    # It warns that its time limits are off; the limit is the timer.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    connection.send("ready")
    while True:
        try:
            answer, response, seconds = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            verdict = _compare(answer, response)
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(verdict)


class _Comparer:
    """Our side of the process. Only one thread may use it at a time."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def compare(self, answer: str, response: str) -> bool | None:
        try:
            connection = self._connection or self._start()
            connection.send((answer, response, SECONDS))
            verdict: bool | None = connection.recv()
            return verdict
        except (EOFError, OSError) as exc:
            self.stop()
            raise TimeoutError(f"the comparison takes more than {SECONDS:g} seconds, or too much memory") from exc
        except BaseException:
            # An interrupt while we wait would leave what we waited for to the next comparison.
            self.stop()
            raise

    def _start(self) -> Connection:
        import multiprocessing  # not at the top: help texts load this module, and should come at once

        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True, name="math-verify")
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        try:
            ours.recv()
        except EOFError as exc:
            raise RuntimeError(
                "the process that compares mathematics does not start; is math-verify installed?"
            ) from exc
        return ours

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


_lock = threading.Lock()
_comparer = _Comparer()
atexit.register(_comparer.stop)
