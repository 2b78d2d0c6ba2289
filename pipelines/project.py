"""The project that a flow works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fst.config import Params, load_params
from fst.release.adaptation import Adaptation, production_of
from fst.stages.places import Places
from fst.stages.workspace import Workspace
from pipelines.graph import Graph


@dataclass(frozen=True)
class Project:
    """The folder of params.yaml and dvc.yaml. A flow takes its parameters from the file alone, because DVC records the
    file. An adaptation adds its domains to those of the file; dvc.yaml does not know them."""

    root: str = "."
    adaptation: Adaptation | None = None

    @property
    def places(self) -> Places:
        return Places(Path(self.root))

    @property
    def params(self) -> Params:
        params = load_params(self.places.params)
        if self.adaptation is None:
            return params
        return self.adaptation.params(params, production_of(params, self.places, self.adaptation.channel))

    @property
    def workspace(self) -> Workspace:
        """What the stages work on."""
        return Workspace(self.params, self.places)

    @property
    def graph(self) -> Graph | None:
        """The stages as DVC knows them; None for an adaptation, whose stages are not in dvc.yaml."""
        return Graph(Path(self.root)) if self.adaptation is None else None
