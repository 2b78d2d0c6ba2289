"""Recipes for making a bundle again: a commit, a params.yaml and a stage, for it and for each bundle that it builds on;
and the comparison of the result with the original."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fst.config import Params, upgraded
from fst.errors import ConfigError, IntegrityError
from fst.files import document
from fst.release.views import changes, flat
from fst.stages.places import BASE

CHANGED = "+changes"

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_OF_A_RELEASE = {"candidate": None, "gate": None, "provenance": None}  # set by a release; None in a candidate


@dataclass(frozen=True)
class Recipe:
    """How a bundle was made. `changed` is whether the working tree had uncommitted changes. `expected` is the manifest
    of the candidate that must result, `name` the name of its domain, or `base`."""

    commit: str
    changed: bool
    params: Mapping[str, Any]
    name: str
    expected: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The stage's name in dvc.yaml."""
        return BASE if self.name == BASE else f"bundle@{self.name}"

    @property
    def bundle(self) -> str:
        """The id of the expected candidate."""
        return _id(self.expected)

    @property
    def params_yaml(self) -> str:
        """The params.yaml of that time, without comments, and without trackers, which are not to see the run twice."""
        values = {name: section for name, section in self.params.items() if name != "track"}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def recipe_of(manifest: Mapping[str, Any], now: Params, head: str) -> Recipe:
    """Make the recipe from a bundle's manifest. A candidate does not record its commit: it is made again from `head`,
    with the domains, limits and places of the parameters `now`.

    Raises ConfigError for a bundle that was made outside of git, and IntegrityError for a release that is not the
    candidate it names, or that has an invalid domain name.
    """
    expected = candidate_manifest(manifest)
    provenance = manifest.get("provenance")
    if provenance:
        commit, params = provenance["commit"], provenance["params"]
    else:
        commit, params = head, _params_of_candidate(manifest, now)
    if not _COMMIT.fullmatch(commit.removesuffix(CHANGED)):
        raise ConfigError(f"it was made outside of git (commit {commit!r}): there is no code to make it again with")
    name = _name(manifest)
    for domain in (name, *params.get("domains", {})):
        if not _NAME.fullmatch(domain):  # dvc.yaml makes shell commands of them
            raise IntegrityError(f"its manifest has a domain {domain!r}, which no params.yaml may have; do not use it")
    return Recipe(commit.removesuffix(CHANGED), commit.endswith(CHANGED), in_order(params), name, expected)


@dataclass(frozen=True)
class Step:
    """A part of the way to a bundle: stages that are made with the same commit and parameters. `names` are their
    domains, the recipe's last; empty in the very first step, which also makes everything that it builds on."""

    recipe: Recipe
    names: tuple[str, ...] = ()


def steps_of(
    manifest: Mapping[str, Any], recipe: Recipe, now: Params, released: Iterable[Mapping[str, Any]]
) -> list[Step]:
    """Plan all steps to a bundle with this manifest and recipe. Bundles that it builds on and that were released are
    made with the commit and parameters of their own release; if that commit is unknown or had changes, with the commit
    of the bundle on top of them. Bundles that were never released are made like the one on top of them. `released` has
    the manifests of all releases. Raises as `recipe_of` does."""
    releases: dict[str, Mapping[str, Any]] = {}
    for one in released:
        if one["candidate"] and one["provenance"]:
            releases.setdefault(one["candidate"], one)
    steps = [Step(recipe, (recipe.name,))]
    for stage, found in _lineage(manifest, releases):
        step = steps[0]
        own = _own_recipe(found, now, step.recipe) if found else step.recipe
        if (own.commit, own.params) == (step.recipe.commit, step.recipe.params):
            steps[0] = Step(step.recipe, (stage, *step.names))
        else:
            steps.insert(0, Step(own, (stage,)))
    for step in steps[1:]:
        if unknown := set(step.names) - set(step.recipe.params.get("domains", {})):
            raise IntegrityError(
                f"its manifest says to build on {unknown.pop()!r}, which is no domain of its parameters"
            )
    return [Step(steps[0].recipe), *steps[1:]]


def _lineage(
    manifest: Mapping[str, Any], releases: dict[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield (stage, its release or None) for everything that a bundle builds on, the nearest first, as far as it is
    known. Each release is used once, so that manifests that name each other do not loop for ever."""
    noted = (manifest["provenance"] or {}).get("lineage") or [{"stage": BASE, "candidate": manifest["start"]}]
    for entry in noted:
        found = releases.pop(entry["candidate"], None)
        yield (_name(found) if found else entry["stage"]), found
        if found:
            yield from _lineage(found, releases)
            return


def _own_recipe(manifest: Mapping[str, Any], now: Params, above: Recipe) -> Recipe:
    """Make the recipe of a release that another bundle was built on."""
    provenance = manifest["provenance"]
    clean = _COMMIT.fullmatch(provenance["commit"])
    commit = provenance["commit"] if clean else above.commit
    return recipe_of({**manifest, "provenance": {**provenance, "commit": commit}}, now, above.commit)


def candidate_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of the candidate that a release was made of; for a candidate, its own. Raises IntegrityError
    if a release names another candidate, or none."""
    files = {path: facts for path, facts in manifest["files"].items() if path != "gate.json"}
    candidate = {**manifest, **_OF_A_RELEASE, "files": files}
    released = manifest["gate"] is not None or manifest["candidate"] is not None
    if released and manifest["candidate"] is None:
        raise IntegrityError("its manifest names no candidate, so there is nothing to compare with; release it again")
    if released and _id(candidate) != manifest["candidate"]:
        raise IntegrityError(
            f"its manifest says that it was made of the candidate {manifest['candidate']}, and without what a release "
            f"adds it is {_id(candidate)}; do not use it"
        )
    return candidate


def in_order(params: Mapping[str, Any]) -> dict[str, Any]:
    """Reorder parameters so that each domain follows the one it builds on; manifests have them sorted by name. Raises
    ConfigError if domains build on each other in a circle."""
    left = dict(params.get("domains", {}))
    ordered: dict[str, Any] = {}
    while left:
        ready = [name for name, domain in left.items() if domain["start"] not in left]
        if not ready:
            raise ConfigError(f"domains: each of {', '.join(left)} builds on another of them")
        ordered.update((name, left.pop(name)) for name in ready)
    return {**params, "domains": ordered}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Describe what differs between two manifests: files with both hashes, and facts. Empty if they are the same."""
    return [] if _id(expected) == _id(found) else list(_differences(expected, found))


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    hashes = [
        {path: facts["sha256"] for path, facts in manifest["files"].items()} | {"manifest.json": _id(manifest)}
        for manifest in (expected, found)
    ]
    for path in sorted(hashes[0].keys() | hashes[1].keys()):
        before, after = (side.get(path, "not there") for side in hashes)
        if before != after:
            yield f"  {path}\n    then  {before}\n    now   {after}"
    sides = [flat({"builds on": m["start"], "domains": m["domains"], **m["metrics"]}) for m in (expected, found)]
    facts = [(path, *(side.get(path) for side in sides)) for path in sorted(sides[0].keys() | sides[1].keys())]
    facts += [(change.path, change.first, change.second) for change in changes(expected, found)]
    yield from (f"  {path}: {before!r} then, {after!r} now" for path, before, after in facts if before != after)


def _params_of_candidate(manifest: Mapping[str, Any], now: Params) -> dict[str, Any]:
    params = {**now.as_dict(), **upgraded(manifest["params"])}
    for name, facts in manifest["domains"].items():
        params["domains"] = {**params["domains"], name: {**params["domains"].get(name, {}), "spec": facts["spec"]}}
        now.domain(name)
    if run := manifest["run"]:
        params["train"] = {"arm": run["arm"], "seed": run["seed"]}
    return params


def _name(manifest: Mapping[str, Any]) -> str:
    """The stage that made a bundle."""
    return str(manifest["run"]["domain"]) if manifest["run"] else BASE


def _id(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(document(manifest).encode()).hexdigest()
