"""Reading what an earlier stage wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fst.errors import RecordError


def read_document(path: Path, made_by: str) -> Any:
    """A document that a stage wrote. Raises RecordError naming the stage to run when it is not there or is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise RecordError(f"{path} cannot be read ({exc}); make it with `{made_by}`") from exc
