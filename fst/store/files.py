"""What a path and a content may be trusted to be."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_INNER_PATH = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*", re.ASCII)


def is_inner_path(path: str) -> bool:
    """Whether a text is a plain relative path, parts between single slashes, none of which begins with a dot."""
    return _INNER_PATH.fullmatch(path) is not None


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
