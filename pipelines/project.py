"""The project that a flow works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fst.config import Params, load_params
from fst.release.adaptation import Adaptation, published
from fst.stages.places import Places
from fst.stages.workspace import Workspace
from fst.store.bundle import Bundle
from pipelines.graph import Graph


@dataclass(frozen=True)
class Project:
    """The folder of params.yaml and dvc.yaml. A flow takes its parameters from the file alone, because DVC records the
    file. An adaptation has the parameters of the release that it is about; dvc.yaml does not know its domains."""

    root: str = "."
    adaptation: Adaptation | None = None

    @property
    def places(self) -> Places:
        return Places(Path(self.root))

    @property
    def params(self) -> Params:
        params = load_params(self.places.params)
        return self.adaptation.params(params, self._adapted(params)) if self.adaptation else params

    @property
    def workspace(self) -> Workspace:
        """What the stages work on."""
        params = load_params(self.places.params)
        if self.adaptation:
            return self.adaptation.workspace(params, self.places, self._adapted(params))
        return Workspace(params, self.places)

    @property
    def graph(self) -> Graph | None:
        """The stages as DVC knows them; None for an adaptation, whose stages are not in dvc.yaml."""
        return Graph(Path(self.root)) if self.adaptation is None else None

    def _adapted(self, params: Params) -> Bundle:
        """The release that is adapted, whatever the channel points at by now."""
        assert self.adaptation is not None  # both callers ask first
        return published(params, self.places, self.adaptation.production)
