"""What every stage works on: a project's parameters and the folders that it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from fst.config import Params
from fst.stages.places import Places


@dataclass(frozen=True)
class Workspace:
    """A project's parameters and places."""

    params: Params
    places: Places = field(default_factory=Places)

    def of(self, name: str) -> Params:
        """The parameters of a domain's stages, its own overrides included."""
        return self.params.of_domain(name)
