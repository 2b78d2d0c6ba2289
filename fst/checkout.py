"""Whether this code runs from a checkout of the project, and where that is."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

CHECKOUT: Path | None = _ROOT if (_ROOT / "dvc.yaml").exists() else None
"""The checkout's root; None where `fst` was installed from a wheel."""
