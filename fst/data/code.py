"""A verifier in a file of yours, without a package: `FILE.py:FUNCTION`, the path relative to the working directory.

The function has the contract of an entry point (fst/data/verifiers.py). It is named for all problems of a domain, by
`--verifier` or `domains.NAME.verifier`, never by a line of a data file: data runs no code.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fst.errors import VerifierError
from fst.files import file_sha256

_NAME = re.compile(r"(?P<file>.+\.py):(?P<function>[^\W\d]\w*)")


def names_code(name: str) -> bool:
    """Whether a verifier's name is that of a function in a file."""
    return _NAME.fullmatch(name) is not None


def code_sha256(name: str) -> str:
    """SHA-256 of the file that a name is about. Raises VerifierError where there is none."""
    return file_sha256(_file(name)[0])


def code_of(named: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the file that a domain's verifier, by its name and options, is in, by the verifier's name; empty where
    it is in none. Raises VerifierError as `code_sha256` does."""
    name = named.get("code") or named["name"]
    return {name: code_sha256(name)} if names_code(name) else {}


def load_code(name: str) -> Callable[..., Any]:
    """The function of a name. The file is run once for each content that it has.

    Raises VerifierError for a file that is missing or cannot be run, and for a function that is not in it.
    """
    path, function = _file(name)
    module = _run(path.resolve(), path.read_bytes())
    found: object = getattr(module, function, None)
    if not callable(found):
        defined = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise VerifierError(f"{path}: no function {function!r}; it has {', '.join(defined) or 'none'}")
    return found


def _file(name: str) -> tuple[Path, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise VerifierError(f"the verifier {name!r} is no function in a file; write FILE.py:FUNCTION")
    path = Path(match["file"])
    if not path.is_file():
        raise VerifierError(f"{path}: no such file, for the verifier {name!r}; the path is relative to {Path.cwd()}")
    return path, match["function"]


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
