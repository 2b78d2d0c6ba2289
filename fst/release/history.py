"""A channel's history for readers: what was released, why, and how every domain changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from fst.store.bundle import Bundle
from fst.store.channel import Entry


@dataclass(frozen=True)
class Cell:
    """A domain's figures under a release: held-out reward, KL in nats per token, and the change of the reward since the
    domain's first release (None in that one)."""

    reward: float
    kl: float
    change: float | None


@dataclass(frozen=True)
class ReleaseView:
    """One move of a channel. `trained_on` is the domain that the bundle was trained on; `cells` has an entry for every
    domain that it serves, and `prompts` the text of each domain's prompt."""

    entry: Entry
    trained_on: str
    specs: dict[str, str]
    cells: dict[str, Cell]
    prompts: dict[str, str]
    decision: dict[str, Any]

    @property
    def difference(self) -> dict[str, float]:
        """The gate's overall difference: mean, low, high."""
        return dict(self.decision["intervals"][""])

    def as_dict(self) -> dict[str, Any]:
        """The move as an entry of summary.json."""
        return {
            "bundle": self.entry.bundle,
            "action": self.entry.action,
            "domain": self.trained_on,
            "verdict": self.decision["verdict"],
            "reward": {domain: cell.reward for domain, cell in self.cells.items()},
            "difference": self.difference,
        }


def load_releases(history: Iterable[Entry], bundle_of: Callable[[str], Bundle]) -> list[ReleaseView]:
    """Load a channel's moves, the oldest first."""
    first: dict[str, float] = {}
    views = []
    for entry in history:
        bundle = bundle_of(entry.bundle)
        evaluation, prompts, cells = bundle.evaluation(), bundle.prompts(), {}
        for domain in bundle.manifest["domains"]:
            reward = evaluation[domain]["reward"]
            change = reward - first[domain] if domain in first else None
            first.setdefault(domain, reward)
            cells[domain] = Cell(reward, evaluation[domain]["kl"], change)
        views.append(
            ReleaseView(
                entry,
                _trained_on(bundle.manifest),
                {domain: facts["spec"] for domain, facts in bundle.manifest["domains"].items()},
                cells,
                {domain: prompts[domain]["prompts"][0]["text"] for domain in cells},
                bundle.gate() or {},
            )
        )
    return views


def _trained_on(manifest: Mapping[str, Any]) -> str:
    """The domain, under the name it is served with, that the bundle's own stage trained on."""
    stage = manifest["run"]["domain"]
    return next((domain for domain, facts in manifest["domains"].items() if facts.get("stage") == stage), stage)


def arrivals(releases: Sequence[ReleaseView]) -> list[str]:
    """List the domains in the order of their arrival."""
    arrived = [release.trained_on for release in releases]
    return list(dict.fromkeys([*arrived, *(domain for release in releases for domain in release.cells)]))


def releases_table(releases: Sequence[ReleaseView]) -> Table:
    """Make the closing table for the terminal: one row per release, with the held-out reward on every domain."""
    table = Table(caption="held-out reward, mean@n; in brackets the change since the domain's first release")
    table.add_column("release", no_wrap=True)
    table.add_column("trained on", overflow="fold")
    domains = arrivals(releases)
    for domain in domains:
        table.add_column(domain, justify="right", overflow="fold")
    table.add_column("against production", justify="right", overflow="fold")
    for release in releases:
        said = release.difference
        table.add_row(
            release.entry.bundle[:12] + (" (rollback)" if release.entry.action == "rollback" else ""),
            release.trained_on,
            *(_cell(release.cells.get(domain)) for domain in domains),
            f"{said['mean']:+.3f} [{said['low']:+.3f}, {said['high']:+.3f}]".replace("[", r"\["),
        )
    return table


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.reward:.3f}" + ("" if cell.change is None else f" ({cell.change:+.3f})")
