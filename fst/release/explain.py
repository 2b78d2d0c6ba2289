"""Where a bundle comes from, as data: the chain of bundles it builds on, the ancestry of its prompts, and the commands
that make it again. fst/release/explain_tables.py formats it for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from fst.data.types import TENANTS
from fst.release.recipe import CHANGED
from fst.release.references import Known
from fst.release.views import trained
from fst.stages.places import BASE
from fst.store.bundle import Bundle
from fst.traffic.trust import mark

_BASES = "the base: it serves no domain"


@dataclass(frozen=True)
class Link:
    """A bundle that another one builds on. `release` is the id of the release that was made of it, if the store has
    one; `says` describes it, as far as it is known here."""

    candidate: str
    release: str | None
    says: str


@dataclass(frozen=True)
class Ancestor:
    """A prompt with the prompts it was made from. `born` is the round that first proposed it; `repeated` is whether its
    own parents are only listed where it occurs first. `text` is None for a prompt that the bundle does not contain."""

    id: str
    text: str | None
    origin: str
    born: int | None
    parents: tuple[Ancestor, ...] = ()
    repeated: bool = False


@dataclass(frozen=True)
class Explanation:
    """Everything known about the origin of a bundle. `facts` are (name, value) pairs; `ancestry` has the shipped
    prompts by domain, best first; `gate` is the decision, None for a candidate; `tenants` are those whose feedback
    became problems."""

    id: str
    facts: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str, str], ...]  # (domain, spec, sha256)
    tenants: tuple[tuple[str, str, int], ...]  # (domain, mark and name, problems)
    chain: tuple[Link, ...]
    ancestry: Mapping[str, tuple[Ancestor, ...]]
    gate: Mapping[str, Any] | None
    params: Mapping[str, Any]
    commands: tuple[str, ...]


def explain(bundle: Bundle, known: Iterable[Known], names: Iterable[str] = ()) -> Explanation:
    """Explain a bundle. `known` are the bundles that can be looked up; the chain ends at the first one missing. `names`
    are tenants' names that the marks in the bundle may stand for."""
    manifest, known = bundle.manifest, list(known)
    return Explanation(
        id=bundle.id,
        facts=tuple(_facts(bundle)),
        data=tuple((d, facts["spec"], facts["data_sha256"]) for d, facts in manifest["domains"].items()),
        tenants=tuple(_tenants(manifest, names)),
        chain=tuple(chain(manifest, known)),
        ancestry={domain: ancestors(entry) for domain, entry in bundle.prompts().items()},
        gate=bundle.gate(),
        params=(manifest["provenance"] or {}).get("params") or manifest["params"],
        commands=tuple(commands(bundle, made_apart(manifest, known))),
    )


def chain(manifest: Mapping[str, Any], known: Iterable[Known]) -> list[Link]:
    """List what a bundle builds on, the nearest first, down to the base."""
    candidates: dict[str, Known] = {}
    for one in known:
        candidates.setdefault(one.manifest["candidate"] or one.id, one)
    links: list[Link] = []
    while (start := manifest["start"]) is not None:
        found = candidates.get(start)
        if found is None:
            alone = manifest["run"] and set(manifest["domains"]) == {manifest["run"]["domain"]}
            return [*links, Link(start, None, _BASES if alone else "neither in the store nor in models/bundles")]
        release = found.id if found.released and found.manifest["candidate"] else None
        links.append(Link(start, release, trained(found.manifest["run"]) if found.manifest["run"] else _BASES))
        manifest = found.manifest
    return links


def ancestors(entry: Mapping[str, Any]) -> tuple[Ancestor, ...]:
    """Build the ancestry trees of a domain's shipped prompts."""
    met = {prompt["id"]: prompt for prompt in (*entry["ancestry"], *entry["prompts"])}
    return tuple(_ancestor(prompt["id"], met, set()) for prompt in entry["prompts"])


def made_apart(manifest: Mapping[str, Any], known: Iterable[Known]) -> bool:
    """Whether something that a bundle builds on was released with another commit or other parameters."""
    released = {one.manifest["candidate"]: one.manifest for one in known if one.released}
    own, below = manifest["provenance"] or {}, released.get(manifest["start"])
    if not own or below is None or not below["provenance"]:
        return False
    same = all(own[key] == below["provenance"][key] for key in ("commit", "params"))
    return not same or made_apart(below, known)


def commands(bundle: Bundle, apart: bool = False) -> Sequence[str]:
    """Return the commands that make the bundle again; `apart` is the result of `made_apart`."""
    manifest, short = bundle.manifest, bundle.id[:12]
    name = manifest["run"]["domain"] if manifest["run"] else BASE
    target = BASE if name == BASE else quote(f"bundle@{name}")
    check = f"sha256sum {quote(f'models/bundles/{name}/manifest.json')}   # {manifest['candidate'] or bundle.id}"
    if manifest["provenance"] is None:
        return [
            f"fst reproduce {quote(str(bundle.folder))}",
            "",
            "# or step by step, here:",
            f"dvc repro --force {target}",
            check,
        ]
    commit = manifest["provenance"]["commit"]
    if commit == "unknown":
        return ["# none: it was made outside of git, so nobody knows from which code"]
    changed = commit.endswith(CHANGED)
    again = f"fst reproduce {short}{' --allow-changes   # the changes are in no commit' if changed else ''}"
    if apart:
        return [again, "# What it builds on was released with another commit or other parameters, and is made first."]
    return [
        again,
        "",
        "# or step by step:",
        f"git clone --shared . ../fst-{short} && git -C ../fst-{short} checkout {quote(commit.removesuffix(CHANGED))}",
        f"fst explain {short} --print-params > ../fst-{short}/params.yaml",
        f"cd ../fst-{short} && make install && . .venv/bin/activate",
        f"dvc repro --force --no-run-cache {target}",
        check,
    ]


def _tenants(manifest: Mapping[str, Any], names: Iterable[str]) -> Iterable[tuple[str, str, int]]:
    known = {mark(name): name for name in names}
    for domain, facts in manifest["domains"].items():
        for tenant, count in sorted(facts.get(TENANTS, {}).items(), key=lambda one: (-one[1], one[0])):
            yield domain, f"{tenant} ({known[tenant]})" if tenant in known else tenant, count


def _facts(bundle: Bundle) -> Iterable[tuple[str, str]]:
    manifest = bundle.manifest
    provenance, run = manifest["provenance"] or {}, manifest["run"]
    yield "bundle", bundle.id
    yield "candidate", manifest["candidate"] or "it is one itself: not released"
    yield "commit", provenance.get("commit") or "not said before the release"
    yield "dvc.lock", f"sha256 {provenance['dvc_lock_sha256']}" if provenance.get("dvc_lock_sha256") else "-"
    yield "base", f"{manifest['base']['name']}, sha256 {manifest['base']['sha256']}"
    yield "trained", trained(run)
    if run:
        yield "for", f"{run['cycles']} cycles, {run['steps']} RL steps"
        spent = run["rollouts"]
        yield "rollouts", f"{spent['train']} training, {spent['fast']} fast, {spent['eval']} evaluation"
    yield "versions", ", ".join(f"{package} {version}" for package, version in manifest["versions"].items())


def _ancestor(prompt_id: str, met: Mapping[str, Any], above: set[str]) -> Ancestor:
    """Build the tree above a prompt; `above` has the prompts of this tree whose parents are already in it."""
    if prompt_id not in met:
        return Ancestor(prompt_id, None, "unknown", None)
    prompt = met[prompt_id]
    repeated = prompt_id in above and bool(prompt["parents"])
    above.add(prompt_id)
    parents = () if repeated else tuple(_ancestor(parent, met, above) for parent in prompt["parents"])
    return Ancestor(prompt_id, prompt["text"], prompt["origin"], prompt["born"], parents, repeated)
