"""The stage `base`: the untrained model as a bundle that serves no domain, which a first domain builds on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fst.stages.packing import Contents, pack
from fst.stages.places import BASE
from fst.stages.workspace import Workspace


def base(workspace: Workspace) -> Path:
    """Write models/bundles/base and return the folder."""
    documents: dict[str, Any] = {"prompts.json": {}, "evaluation.json": {}, "reference.json": {}}
    contents = Contents({"domains": {}, "run": None, "metrics": {}}, documents)
    return pack(workspace.params, workspace.places.bundled(BASE), contents)
