"""What stages write: folders that are replaced as a whole, and documents whose bytes depend on their content alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fst.errors import RecordError
from models.files import sync_folder


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `folder` when all went well, and vanishes when something did not."""
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        sync_folder(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def document(values: Any) -> str:
    """JSON with sorted keys: equal values, equal bytes."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_document(path: Path, made_by: str) -> Any:
    """A document that a stage wrote. Raises RecordError naming the stage to run when it is not there or is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise RecordError(f"{path} cannot be read ({exc}); make it with `{made_by}`") from exc
