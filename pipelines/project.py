"""The project that a flow works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fst.config import Params, load_params
from fst.places import Places


@dataclass(frozen=True)
class Project:
    """The folder of params.yaml and dvc.yaml. A flow takes its parameters from the file alone: DVC records them."""

    root: str = "."

    @property
    def places(self) -> Places:
        return Places(Path(self.root))

    @property
    def params(self) -> Params:
        return load_params(self.places.params)
