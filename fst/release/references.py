"""Resolves a user's reference to a bundle: a channel, an id or the beginning of one, or the path of a folder.

A candidate's id, as `fst stage bundle` prints it, refers to the release that was made of it, or, before there is one,
to the candidate itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fst.config import Params
from fst.errors import ConfigError, FstError
from fst.stages.places import Places
from fst.store.bundle import MANIFEST, Bundle, read_bundle
from fst.store.channel import is_bundle_reference
from fst.store.releases import Releases


class Known(NamedTuple):
    """A bundle's id and manifest; `released` is whether it is in the store."""

    id: str
    manifest: dict[str, Any]
    released: bool


@dataclass(frozen=True)
class References:
    """Looks up bundles in the store and in the project."""

    releases: Releases
    places: Places

    @classmethod
    def of(cls, params: Params, places: Places | None = None) -> References:
        return cls(Releases.open(params.store), places or Places())

    def bundle(self, reference: str) -> Bundle:
        """Return the bundle, verified; one in the store is fetched. Raises ConfigError if the reference matches no
        bundle or several, and IntegrityError if the bundle is damaged."""
        if _is_path(reference):
            return _in_folder(Path(reference))
        try:
            bundle_id = self.id(reference)
        except ConfigError:
            if found := self._candidate(reference):
                return found
            raise
        return self.releases.fetch(bundle_id, self.places.fetched(bundle_id))

    def id(self, reference: str) -> str:
        """Return the bundle's id without fetching it. Raises as `bundle` does."""
        if _is_path(reference):
            return _in_folder(Path(reference)).id
        try:
            return self.releases.resolve(reference)
        except ConfigError as exc:
            if made_of_it := self._released_as(reference):
                return made_of_it
            raise ConfigError(f"{exc}; `fst bundles list` shows what there is, and a folder is written ./NAME") from exc

    def past(self, reference: str | None) -> str | None:
        """Translate a reference into what `Releases.rollback` accepts: an id, or the beginning of one, which needs to
        be unique only in the channel's history."""
        if reference is None or not is_bundle_reference(reference):
            return reference and self.id(reference)
        return reference if self.releases.bundles(reference) else self._released_as(reference) or reference

    def _released_as(self, reference: str) -> str | None:
        """The first release made of the only candidate whose id begins so; None if there is none, or several."""
        made = [(one.id, self.releases.manifest(one.id)["candidate"] or "") for one in self.releases.bundles()]
        found = [(bundle, of) for bundle, of in made if is_bundle_reference(reference) and of.startswith(reference)]
        return found[0][0] if len({of for _, of in found}) == 1 else None

    def _candidate(self, reference: str) -> Bundle | None:
        """The project's only candidate whose id begins so; None if there is none, or several."""
        folders = self.places.bundled("any").parent.glob(f"[!.]*/{MANIFEST}")
        found = {one.id: one for one in map(_readable, folders) if one and one.id.startswith(reference)}
        return next(iter(found.values())) if len(found) == 1 and is_bundle_reference(reference) else None

    def channels(self) -> dict[str, list[str]]:
        """The names of the channels that point at each bundle, by its id."""
        pointing: dict[str, list[str]] = {}
        for channel in self.releases.channels():
            if channel.bundle is not None:
                pointing.setdefault(channel.bundle, []).append(channel.name)
        return pointing

    def known(self) -> Iterator[Known]:
        """Yield every bundle that can be looked up here: those in the store, then the project's candidates. A candidate
        that is damaged, or that a stage is about to replace, is left out."""
        for published in self.releases.bundles():
            yield Known(published.id, self.releases.manifest(published.id), True)
        for manifest in sorted(self.places.bundled("any").parent.glob(f"[!.]*/{MANIFEST}")):
            if bundle := _readable(manifest):
                yield Known(bundle.id, bundle.manifest, False)


def _readable(manifest: Path) -> Bundle | None:
    """The bundle around a manifest; None for one that is damaged, or that a stage is about to replace."""
    try:
        return read_bundle(manifest.parent)
    except (FstError, OSError):
        return None


def _is_path(reference: str) -> bool:
    """Neither an id nor the name of a channel has a slash or a dot in it."""
    return "/" in reference or "." in reference


def _in_folder(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; make it with `dvc repro bundle@NAME`, or name another")
    return read_bundle(folder)
