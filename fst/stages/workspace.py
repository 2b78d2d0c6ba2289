"""What every stage works on: a project's parameters and the folders that it reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fst.config import Params
from fst.stages.places import Places


@dataclass(frozen=True)
class Workspace:
    """A project's parameters and places. `published` are folders of bundles from the store, by the name of the stage
    that made them: they are built on as they were published, whatever that stage has made since."""

    params: Params
    places: Places = field(default_factory=Places)
    published: Mapping[str, Path] = field(default_factory=dict)

    def of(self, name: str) -> Params:
        """The parameters of a domain's stages, its own overrides included."""
        return self.params.of_domain(name)

    def bundled(self, name: str) -> Path:
        """The folder of a domain's bundle, or of `base`, as another domain builds on it."""
        return self.published.get(name) or self.places.bundled(name)
