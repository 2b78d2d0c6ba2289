"""Loads a verifier from a user's file without a package: `FILE.py:FUNCTION`, with the path relative to the working
directory. A TRL reward function may also be named in an installed module: `package.module:FUNCTION`.

The function has one of the contracts in fst/data/functions.py. It is named for all problems of a domain, by
`--verifier` or `domains.NAME.verifier`, never by a line of a data file, so data cannot run code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fst.errors import VerifierError
from fst.files import file_sha256

_NAME = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")
_IMPORTED = re.compile(r"(?!python:)(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")


def names_code(name: str) -> bool:
    """Whether a verifier's name is that of a function in a file or in a module."""
    return names_file(name) or _IMPORTED.fullmatch(name) is not None


def names_file(name: str) -> bool:
    """Whether a verifier's name is that of a function in a file."""
    return _NAME.fullmatch(name) is not None


def code_sha256(name: str) -> str:
    """Return the SHA-256 of the file that a name refers to; for a function in a module, the file that defines it.
    Raises VerifierError if there is none."""
    if names_file(name) or not names_code(name):
        return file_sha256(_file(name)[0])
    source = inspect.getsourcefile(inspect.unwrap(_imported(name)))
    return file_sha256(Path(source or ""))


def code_of(named: Mapping[str, Any]) -> dict[str, str]:
    """Return {name: SHA-256 of its file} for a domain's verifier, given by its name and options; empty if it is not the
    user's code. Raises VerifierError as `code_sha256` does."""
    name = named.get("code") or named["name"]
    return {name: code_sha256(name)} if names_code(name) else {}


def load_code(name: str) -> Callable[..., Any]:
    """Load the function that a name refers to. A file is run once for each version of its content.

    Raises VerifierError for a file or module that is missing or cannot be run, for a function that is not in it, and
    for a module's function that is not a reward function: a name must not be able to call arbitrary installed code.
    """
    if names_code(name) and not names_file(name):
        return _imported(name)
    path, function = _file(name)
    module = _run(path.resolve(), path.read_bytes())
    found: object = getattr(module, function, None)
    if not callable(found):
        defined = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise VerifierError(f"{path}: no function {function!r}; it has {', '.join(defined) or 'none'}")
    return found


def is_reward_function(function: Callable[..., Any]) -> bool:
    """Whether a function has the contract of TRL's reward functions, that is, a parameter `completions`."""
    try:
        return "completions" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a class or a built-in that does not tell
        return False


def _file(name: str) -> tuple[Path, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise VerifierError(f"the verifier {name!r} is no function in a file; write FILE.py:FUNCTION")
    path = Path(match["file"])
    if not path.is_file():
        raise VerifierError(f"{path}: no such file, for the verifier {name!r}; the path is relative to {Path.cwd()}")
    return path, match["function"]


def _imported(name: str) -> Callable[..., Any]:
    """Import a reward function from an installed module. Raises VerifierError."""
    module, _, function = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), function, None)
    except Exception as exc:
        raise VerifierError(
            f"the module {module!r} of the verifier {name!r} cannot be imported: {type(exc).__name__}: {exc}; a file "
            "is named as FILE.py:FUNCTION"
        ) from exc
    if not inspect.isfunction(found) or not is_reward_function(found):
        raise VerifierError(
            f"{name!r} is no reward function: a module's function is taken where it has the parameter `completions`, "
            "as TRL's have; put any other into a file and name that, FILE.py:FUNCTION"
        )
    return found


@functools.lru_cache(maxsize=16)
def _run(path: Path, content: bytes) -> ModuleType:
    """The module of a file, which is never read from bytecode of an earlier content."""
    module = ModuleType(f"fst_verifier_{hashlib.sha256(str(path).encode() + content).hexdigest()[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for the module of a class
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as exc:
        raise VerifierError(f"{path}: the file of a verifier cannot be run: {type(exc).__name__}: {exc}") from exc
    return module
