"""Whether this code runs from a checkout of the project, and where that and the lab's base model are."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

CHECKOUT: Path | None = _PACKAGE.parent if (_PACKAGE.parent / "dvc.yaml").exists() else None
"""The checkout's root; None where `fst` was installed from a wheel."""

LAB_BASE = CHECKOUT / "models" / "lab_base" if CHECKOUT else _PACKAGE / "models" / "lab" / "base"
"""The lab's base model; a wheel has it inside of the package."""
