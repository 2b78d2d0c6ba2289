"""Where the stages of a project read and write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BASE = "base"  # the bundle of the untrained model, and the stage that makes it


@dataclass(frozen=True)
class Places:
    """Paths below a project's root, the folder of params.yaml and dvc.yaml; `name` is a domain of params.yaml."""

    root: Path = Path()

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def prepared(self, name: str, sha256: str | None = None) -> Path:
        """A domain's problems; with a hash, the place of those that a release was measured on, where they are kept
        beside newer ones."""
        return self.root / "data" / "prepared" / (f"{name}-{sha256[:12]}" if sha256 else name)

    def validated(self, name: str) -> Path:
        return self.root / "data" / "validated" / name

    def trained(self, name: str) -> Path:
        return self.root / "models" / "trained" / name

    def evaluated(self, name: str) -> Path:
        return self.root / "models" / "evaluated" / name

    def bundled(self, name: str) -> Path:
        return self.root / "models" / "bundles" / name

    def fetched(self, bundle: str) -> Path:
        """A bundle from the store, by its id."""
        return self.root / "models" / "fetched" / bundle

    def curve(self, name: str) -> Path:
        return self.root / "reports" / "curves" / f"{name}.csv"

    def metrics(self, name: str) -> Path:
        return self.root / "reports" / "metrics" / f"{name}.json"

    @property
    def monitoring(self) -> Path:
        """Windows, alerts and adaptations, as JSON lines."""
        return self.root / "reports" / "monitoring"

    def raw_page(self, name: str) -> Path:
        """What validation found in a domain's problem file as it lies there."""
        return self.root / "reports" / "validation" / f"{name}.html"

    def decision(self, name: str) -> Path:
        """The gate's last decision about a domain's candidate."""
        return self.root / "reports" / "gate" / f"{name}.json"
