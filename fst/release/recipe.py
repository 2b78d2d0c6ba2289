"""What it takes to make a bundle again: a commit, a params.yaml and a stage, for it and for each bundle that it builds
on; and how to tell whether it is the same."""

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
_OF_A_RELEASE = {"candidate": None, "gate": None, "provenance": None}  # what a release adds, as it is in a candidate


@dataclass(frozen=True)
class Recipe:
    """How a bundle was made. `changed`: from a working tree with changes that no commit has. `expected` is the
    manifest of the candidate that must come out, `name` that of its domain, or `base`."""

    commit: str
    changed: bool
    params: Mapping[str, Any]
    name: str
    expected: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """As dvc.yaml calls it."""
        return BASE if self.name == BASE else f"bundle@{self.name}"

    @property
    def bundle(self) -> str:
        """Id of the candidate."""
        return _id(self.expected)

    @property
    def params_yaml(self) -> str:
        """params.yaml as it was, without its comments, and without trackers: what is made again is not shown again."""
        values = {name: section for name, section in self.params.items() if name != "track"}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def recipe_of(manifest: Mapping[str, Any], now: Params, head: str) -> Recipe:
    """From a bundle's manifest. A candidate does not say its commit: it is made again from `head`, with the domains,
    limits and places of the parameters `now`.

    Raises ConfigError for a bundle that was made outside of git, IntegrityError for a release that is not the
    candidate it names, or that names a domain as none can be named.
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
    domains, the last of them the recipe's; empty in the first step of all, which makes everything below it too."""

    recipe: Recipe
    names: tuple[str, ...] = ()


def steps_of(
    manifest: Mapping[str, Any], recipe: Recipe, now: Params, released: Iterable[Mapping[str, Any]]
) -> list[Step]:
    """All steps to a bundle that has this manifest and recipe. What it builds on and was released by itself is made
    with the commit and the parameters of that release, or with the commit of what is on top of it where its own is
    unknown or had changes; what never was released is made as what is on top of it. `released` are the manifests of
    the releases that there are. Raises as `recipe_of` does."""
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
    """(stage, its release or None) of everything that a bundle builds on, the nearest first, as far as it is known.
    Each release is taken once, so that manifests that name each other come to an end."""
    noted = (manifest["provenance"] or {}).get("lineage") or [{"stage": BASE, "candidate": manifest["start"]}]
    for entry in noted:
        found = releases.pop(entry["candidate"], None)
        yield (_name(found) if found else entry["stage"]), found
        if found:
            yield from _lineage(found, releases)
            return


def _own_recipe(manifest: Mapping[str, Any], now: Params, above: Recipe) -> Recipe:
    """How a release was made that another bundle was made on top of."""
    provenance = manifest["provenance"]
    clean = _COMMIT.fullmatch(provenance["commit"])
    commit = provenance["commit"] if clean else above.commit
    return recipe_of({**manifest, "provenance": {**provenance, "commit": commit}}, now, above.commit)


def candidate_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of the candidate that a release was made of; a candidate's own. Raises IntegrityError when a release
    names another one, or none."""
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
    """Parameters with each domain after the one that it builds on: a manifest holds them by name."""
    left = dict(params.get("domains", {}))
    ordered: dict[str, Any] = {}
    while left:
        ready = [name for name, domain in left.items() if domain["start"] not in left]
        if not ready:
            raise ConfigError(f"domains: each of {', '.join(left)} builds on another of them")
        ordered.update((name, left.pop(name)) for name in ready)
    return {**params, "domains": ordered}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Lines that say what differs between two manifests: files with both hashes, and facts. Empty when nothing does."""
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
