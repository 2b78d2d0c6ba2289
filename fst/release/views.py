"""Views of bundles as data: one in a list, one in full, two side by side. fst/release/tables.py formats them for the
terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from fst.config import upgraded
from fst.release.references import References
from fst.store.bundle import Bundle

FIGURES = ("reward", "stderr", "kl", "tokens_per_answer")

_NOT_MADE_WITH = ("files", "domains", "metrics", "gate", "provenance", "candidate", "start", "schema", "params")


@dataclass(frozen=True)
class Listed:
    """A bundle in the store. `at` is when it was published (ISO 8601, UTC), `run` the run that trained it (None for the
    base), `rewards` are by domain, `channels` those that point at it."""

    id: str
    at: str
    run: Mapping[str, Any] | None
    rewards: Mapping[str, float]
    channels: Sequence[str]

    @property
    def trained(self) -> str:
        return trained(self.run)


@dataclass(frozen=True)
class Shown:
    """One bundle in full; `gate` is the decision that released it, None in a candidate."""

    id: str
    manifest: Mapping[str, Any]
    prompts: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    gate: Mapping[str, Any] | None
    channels: Sequence[str]


@dataclass(frozen=True)
class Pair:
    """The prompts of the same rank in two bundles, as (text, score, origin); None if a bundle has no such rank."""

    domain: str
    rank: int
    first: tuple[str, float | None, str] | None
    second: tuple[str, float | None, str] | None

    @property
    def same(self) -> bool:
        return self.first is not None and self.second is not None and self.first[0] == self.second[0]


@dataclass(frozen=True)
class Change:
    """A value in two bundles, by its dotted path; None in a bundle that does not have it."""

    path: str
    first: Any
    second: Any


@dataclass(frozen=True)
class Comparison:
    """Two bundles, by their ids. `figures` holds every domain's, `made_with` the parameters, versions and facts of
    the run that differ."""

    first: str
    second: str
    prompts: tuple[Pair, ...]
    figures: tuple[Change, ...]
    made_with: tuple[Change, ...]


def catalogue(references: References) -> list[Listed]:
    """List every bundle in the store, the newest first."""
    channels = references.channels()
    return [
        _listed(one.id, one.at, references.releases.manifest(one.id), channels.get(one.id, []))
        for one in reversed(references.releases.bundles())
    ]


def in_full(bundle: Bundle, channels: Sequence[str] = ()) -> Shown:
    """Return everything in a bundle except its weights."""
    return Shown(bundle.id, bundle.manifest, bundle.prompts(), bundle.evaluation(), bundle.gate(), list(channels))


def as_json(view: Listed | Shown) -> dict[str, Any]:
    """Convert a view to JSON values."""
    return asdict(view)


def compare(first: Bundle, second: Bundle) -> Comparison:
    """Compare two bundles: their prompts, the figures of both, and what they were made with."""
    pairs = [pair for domain in _both(first, second) for pair in _pairs(domain, first.prompts(), second.prompts())]
    metrics = [flat(bundle.manifest.get("metrics", {})) for bundle in (first, second)]
    figures = [
        Change(path, metrics[0].get(path), metrics[1].get(path))
        for domain in _both(first, second)
        for path in (f"{domain}.{figure}" for figure in FIGURES)
        if path in metrics[0] or path in metrics[1]
    ]
    return Comparison(
        first.id, second.id, tuple(pairs), tuple(figures), tuple(changes(first.manifest, second.manifest))
    )


def changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the differences in what two bundles were made with: parameters, base, versions, run."""
    ours, theirs = _made_with(first), _made_with(second)
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            yield Change(path, ours.get(path), theirs.get(path))


def trained(run: Mapping[str, Any] | None) -> str:
    """Describe a run in a few words."""
    return f"{run['domain']}: {run['arm']}, seed {run['seed']}" if run else "nothing: the base model"


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested values into a dict by dotted path."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value}
        found.update(nested)
    return found


def _listed(bundle_id: str, at: datetime, manifest: Mapping[str, Any], channels: Sequence[str]) -> Listed:
    metrics = manifest.get("metrics", {})
    rewards = {domain: metrics[domain]["reward"] for domain in manifest.get("domains", {}) if domain in metrics}
    return Listed(bundle_id, at.isoformat(timespec="seconds"), manifest.get("run"), rewards, list(channels))


def _both(first: Bundle, second: Bundle) -> list[str]:
    """Domains of two bundles, those of the first one first."""
    return list(dict.fromkeys([*first.manifest.get("domains", {}), *second.manifest.get("domains", {})]))


def _pairs(domain: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Pair]:
    ours, theirs = (
        [(p["text"], p.get("score"), p["origin"]) for p in side.get(domain, {}).get("prompts", ())]
        for side in (first, second)
    )
    for rank in range(max(len(ours), len(theirs))):
        yield Pair(domain, rank + 1, *(side[rank] if rank < len(side) else None for side in (ours, theirs)))


def _made_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: value for key, value in manifest.items() if key not in _NOT_MADE_WITH and value is not None}
    return flat({**facts, **upgraded(manifest.get("params", {}))})
