"""Verifiers by name: (problem, response) -> Score.

`VERIFIERS` is the table of them; a row is added by the decorator `verifier`. A function of an installed package that is
an entry point of the group `fst.verifiers` is the verifier `python:<its name>`, and a function in a file is
`FILE.py:FUNCTION` (fst/data/code.py): (question, answer, response, meta) -> reward, or (reward, what differs), or a
reward function of TRL, which may be named as `package.module:FUNCTION` too (fst/data/functions.py). If a function
raises an exception, the response scores 0 and the feedback names the exception; if it returns something that is not a
score, VerifierError is raised.

Besides its own options, every verifier takes `answer`: how the answer is found in a response (fst/data/answers.py)
before the verifier sees it. With `auto`, a user's function gets the whole response without thinking, and a reward
function gets it with thinking.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fst.data import labels
from fst.data.answers import Narrow, Part, a_number, alone, as_it_is, known_mode
from fst.data.code import is_reward_function, load_code, names_code
from fst.data.families import environments, reasoning_gym
from fst.data.functions import verifier_of_function
from fst.data.scoring import (
    exact,
    math_equality,
    multiple_choice,
    numeric,
    reading,
    regex,
)
from fst.data.types import EXACT, Problem, Score, Verifier
from fst.errors import VerifierError
from fst.tables import Table

Maker = Callable[..., Verifier]
Named = Mapping[str, Any]  # a verifier's `name` and its options

EACH = "each problem's own"
_PYTHON = "python:"
_KINDS = {bool: "true or false", float: "a number of 0 or more", str: "a text", tuple: "a list of texts"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """A row of `VERIFIERS`. `make` takes the options as keywords; their defaults determine their types.

    `quick`: scoring a problem's reference answer is cheap and shows whether it is valid, so it is done on loading.
    `internal`: it reads more of a problem than its answer, so only a domain family names it, for its own problems;
    `alone(options)` is whether, with these options, it does not.
    `reference(problem, options)`: whether the answer itself should earn reward 1.
    `narrow(part, options)`: what it reads from the part of a response that contains the answer.
    """

    make: Maker
    quick: bool = False
    internal: bool = False
    alone: Callable[[Named], bool] = lambda options: False
    reference: Callable[[Problem, Named], bool] = lambda problem, options: True
    narrow: Narrow = as_it_is

    @property
    def options(self) -> dict[str, Any]:
        """The options with their defaults."""
        return {name: p.default for name, p in inspect.signature(self.make).parameters.items()}


class OwnVerifiers:
    """Scores each problem with the verifier that it names, or `exact` if it names none. `answer` is how answers are
    found if a problem's verifier does not set it. `code` is the function in a file (fst/data/code.py) that problems may
    name because the domain does; it is loaded at once."""

    def __init__(self, code: str = "", answer: str = "whole") -> None:
        self._answer = answer
        self._made: dict[str, Verifier] = {}
        if code:
            key = json.dumps({"answer": answer, "name": code}, sort_keys=True)
            self._made[key] = build_verifier(code, {"answer": answer}, internal=True)

    def __call__(self, problem: Problem, response: str) -> Score:
        return self.of(problem)(problem, response)

    def of(self, problem: Problem) -> Verifier:
        """Build the verifier that a problem names. Raises VerifierError if it cannot be built."""
        named = {"answer": self._answer, **own(problem)}
        key = json.dumps(named, sort_keys=True)
        if key not in self._made:
            self._made[key] = build_verifier(named.pop("name"), named)
        return self._made[key]

    def check(self, problem: Problem) -> None:
        """Raise VerifierError if a problem's verifier cannot be built, or cannot read the reference answer."""
        verify, kind = self.of(problem), _kind(own(problem)["name"])
        if kind and kind.quick:
            verify(problem, problem.answer)


VERIFIERS = Table(
    "fst.verifiers",
    {
        "exact": Kind(exact, narrow=alone),
        "numeric": Kind(numeric, quick=True, narrow=a_number),
        "regex": Kind(
            regex,
            quick=True,
            reference=lambda problem, options: bool(options.get("pattern")),
            narrow=lambda part, options: (as_it_is if options.get("search") else alone)(part, options),
        ),
        "multiple_choice": Kind(multiple_choice, quick=True),
        "math": Kind(math_equality),
        labels.NAME: Kind(labels.choice, quick=True),
        reasoning_gym.NAME: Kind(
            reasoning_gym.scorer,
            internal=True,
            alone=lambda options: reasoning_gym.answer_suffices(options.get("dataset", "")),
            reference=lambda problem, options: problem.meta.get("answer", problem.answer) is not None,
            narrow=reasoning_gym.narrow,
        ),
        environments.NAME: Kind(environments.rubric, internal=True, reference=lambda problem, options: False),
        EACH: Kind(
            OwnVerifiers,
            internal=True,
            reference=lambda problem, options: reference_of(problem, own(problem)) is not None,
        ),
    },
    VerifierError,
)


def verifier(name: str, **facts: Any) -> Callable[[Maker], Maker]:
    """Decorate a maker of verifiers to add it to the table; `facts` are fields of `Kind`."""

    def added(make: Maker) -> Maker:
        VERIFIERS.add(name)(Kind(make, **facts))
        return make

    return added


def build_verifier(name: str, options: Mapping[str, Any], internal: bool = False) -> Verifier:
    """Build the verifier called `name`; `internal` admits those that only a domain may name, including functions in
    files. Without the option `answer`, the verifier gets responses as they are.

    Raises VerifierError for an unknown name, an unknown option, a value of the wrong kind, a pattern that
    does not compile, and an entry point or a function in a file that cannot be loaded.
    """
    if names_code(name) and not internal:
        raise VerifierError(
            f"a problem may not name a file of code ({name!r}); name it for all of them: --verifier {name}, or "
            "domains.NAME.verifier in params.yaml"
        )
    own_options = {key: value for key, value in options.items() if key != "answer"}
    mode = known_mode(options["answer"], f"verifier {name!r}") if "answer" in options else None
    if name.startswith(_PYTHON) or names_code(name):
        _check_options(name, own_options, {})
        function = load_code(name) if names_code(name) else _load(name.removeprefix(_PYTHON))
        verify = verifier_of_function(function)
        narrow: Narrow = as_it_is
        if mode == "auto":
            mode = None if is_reward_function(function) else "whole"
    else:
        kind = _kind(name)
        if kind is None or (kind.internal and not internal and not kind.alone(options)):
            raise VerifierError(f"unknown verifier {name!r}; known: {', '.join(known_verifiers())}")
        if "answer" in kind.options:  # it hands the mode on
            return kind.make(**_check_options(name, options, kind.options))
        verify, narrow = kind.make(**_check_options(name, own_options, kind.options)), kind.narrow
    return verify if mode is None else reading(verify, mode, partial(_narrowed, narrow, own_options))


def _narrowed(narrow: Narrow, options: Named, part: Part) -> str:
    return narrow(part, options)


def known_verifiers() -> tuple[str, ...]:
    """Return the names that a problem may give, including installed entry points."""
    public = [name for name, kind in VERIFIERS.rows.items() if not kind.internal]
    return (*public, *sorted(_PYTHON + point.name for point in entry_points(group=VERIFIERS.group)))


def verifier_options(name: str) -> dict[str, Any]:
    """Return the options of a verifier with their defaults; empty for an unknown verifier."""
    kind = _kind(name)
    return kind.options if kind else {}


def named_verifier(value: Any) -> dict[str, Any]:
    """Convert what a problem gives as its verifier to `name` and options. Raises VerifierError if it names none."""
    named = {"name": value} if isinstance(value, str) else value
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise VerifierError('\'verifier\' must be a name, or an object like {"name": "numeric", "tolerance": 0.1}')
    return named


def domain_verifier(named: Named) -> Verifier:
    """Build the verifier of a whole domain. Raises VerifierError, and DataError for a dataset that cannot be made."""
    options = {"answer": "whole", **named}
    return build_verifier(options.pop("name"), options, internal=True)


def own(problem: Problem) -> dict[str, Any]:
    """Return the verifier that a problem names, as `name` and options; `exact` if it names none."""
    return dict(problem.verifier or EXACT)


def answers_alone(named: Named) -> bool:
    """Whether a verifier needs only a problem's question and answer."""
    kind = _kind(named["name"])
    return kind is None or not kind.internal or kind.alone(named)


def reference_of(problem: Problem, named: Named) -> str | None:
    """Return the answer to which the verifier should give reward 1; None if a problem has none, because its answer is a
    pattern or the task has many solutions."""
    kind = _kind(named["name"])
    return problem.answer if kind is None or kind.reference(problem, named) else None


def _kind(name: str) -> Kind | None:
    """Find a row of the table, including those of installed packages; None for an unknown name."""
    if name not in VERIFIERS.rows and not (name.startswith(_PYTHON) or names_code(name)):
        for point in (*entry_points(group=VERIFIERS.group), *entry_points(group="fst.domains")):
            try:
                point.load()  # the module adds its own rows
            except Exception as exc:
                _log.warning("the entry point %s of %s cannot be loaded: %s", point.name, point.group, exc)
    kind: Kind | None = VERIFIERS.rows.get(name)
    return kind


def _check_options(name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in given.items():
        if key not in known:
            raise VerifierError(f"verifier {name!r} has no option {key!r}; it takes: {', '.join(known) or 'none'}")
        kind = type(known[key])
        if kind is float:
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
        elif kind is tuple:
            right = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        else:
            right = isinstance(value, kind)
        if not right:
            wanted = _KINDS.get(kind, f"a {kind.__name__}")
            raise VerifierError(f"verifier {name!r}: option {key!r} must be {wanted}, not {value!r}")
    return {**known, **given}


def _load(name: str) -> Callable[..., Any]:
    """Load the function behind an entry point of the group `fst.verifiers`. Raises VerifierError."""
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=VERIFIERS.group)}
    if name not in points:
        raise VerifierError(
            f"no entry point {name!r} in the group {VERIFIERS.group!r}; known: {', '.join(known_verifiers())}. "
            "Declare it in the package that holds the function and install that package"
        )
    try:
        function: object = points[name].load()
    except Exception as exc:
        raise VerifierError(f"the verifier {_PYTHON + name!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not callable(function):
        raise VerifierError(f"the verifier {_PYTHON + name!r} is no function but a {type(function).__name__}")
    for row, kind in VERIFIERS.rows.items():
        if kind.make is function:
            raise VerifierError(f"{_PYTHON + name!r} makes a verifier of the table: name it {row!r} alone")
    return function
