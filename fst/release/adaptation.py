"""An adaptation updates one served domain from its traffic, with the same stages that make every release.

    fast    its prompts, under the frozen weights of production (arm gepa); takes minutes
    slow    RL steps with the evolved prompts in place (arm fst), on top of the fast one, if that is not enough

To the stages, both are separate domains, named by the content of the problems, which serve under the domain's name.
They are in no params.yaml: a release records all parameters that it was made with, so `fst reproduce` knows them.

The adaptation starts from what is served: production's bundle as it was published, with the parameters that it was made
with and the problems that it was measured on. Later output of the working tree's stages, for instance of an experiment,
is neither used nor changed. From today's params.yaml it takes only the sections on where and when things run, the
gate's limits, and `adapt`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst.config import Params, params_from_dict, upgraded
from fst.data.domains import answer_mode
from fst.data.scored_by import text_of
from fst.errors import ConfigError, DataError, FstError
from fst.release.recipe import candidate_manifest, in_order
from fst.stages.outputs import problems
from fst.stages.places import BASE, Places
from fst.stages.workspace import Workspace
from fst.store.bundle import MANIFEST, Bundle, write_bundle
from fst.store.releases import Releases
from fst.traffic.problems import NO_COMMENTS, NOBODY, Pair, Tellers, agreed, write_problems
from fst.types import AnswerSetting

FOLDER = "data/traffic"

_MADE_WITH = ("prepare", "train", "model", "slow", "fast", "loop", "evaluate", "bundle")  # taken from production
_OF_THE_MACHINE = ("device", "attention", "cache_gb", "engine", "threads")  # keys of `model` taken from today's params


@dataclass(frozen=True)
class Adaptation:
    """A planned adaptation. `domain` is the name in bundles, `data` the problem file relative to the project's root,
    `problems` the number of problems; `production` is the id of the release on `channel` that is adapted, and `start`
    the stage that made it. `answer` is how answers are found in the domain's responses as it is served now, and
    `verifier` what scores them (empty: equality); both are empty for a new domain. `left_out` has a sentence for each
    tenant whose feedback was not used."""

    domain: str
    data: str
    problems: int
    start: str
    channel: str
    answer: AnswerSetting = ""
    verifier: str = ""
    production: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def fast(self) -> str:
        """Name of the fast stage; that of the slow one is `slow`."""
        return Path(self.data).stem

    @property
    def slow(self) -> str:
        return f"{self.fast}-slow"

    def domains(self, params: Params) -> dict[str, Any]:
        """The adaptation's two domains, in the form of params.yaml."""
        test, validation = max(16, self.problems * 3 // 10), max(16, self.problems // 5)
        sizes = {"train": self.problems - test - validation, "validation": validation, "test": test}
        shared = [f"prepare.{split}={size}" for split, size in sizes.items()]
        fast = ["train.arm=gepa", f"loop.cycles={params.adapt.fast_cycles}"]
        slow = ["train.arm=fst", f"loop.cycles={max(1, params.adapt.slow_cycles)}"]
        how = {"verifier": self.verifier, "answer": self.answer}
        same = {"spec": f"jsonl:{self.data}", **how, "source": self.data, "serves": self.domain}
        return {
            self.fast: {**same, "start": self.start, "set": [*shared, *fast]},
            self.slow: {**same, "start": self.fast, "set": [*shared, *slow]},
        }

    def params(self, params: Params, production: Bundle) -> Params:
        """Combine the parameters and domains that production was made with, these two domains, and those of the
        project's parameters that do not affect the result of a run."""
        values, own = params.as_dict(), params_of(production) or params.as_dict()
        machine = {key: values["model"][key] for key in _OF_THE_MACHINE}
        made_with = {name: own[name] for name in _MADE_WITH if name in own}
        made_with["model"] = {**values["model"], **made_with.get("model", {}), **machine}
        store = {**values["store"], "channel": self.channel}
        domains = {**own["domains"], **self.domains(params)}
        return params_from_dict(in_order({**values, **made_with, "store": store, "domains": domains}))

    def workspace(self, params: Params, places: Places, production: Bundle) -> Workspace:
        """Make the workspace of its stages, in which production is built on as it was published."""
        start = {} if self.start == BASE else {self.start: places.fetched(candidate_of(production))}
        return Workspace(self.params(params, production), places, start)


def plan(
    params: Params,
    places: Places,
    domain: str,
    pairs: list[Pair],
    channel: str,
    comments: Mapping[str, str] = NO_COMMENTS,
    tellers: Tellers = NOBODY,
) -> Adaptation:
    """Write the problem file, with comments and the tenants that gave the answers, and find what to build on. Raises
    DataError if there are too few problems, and ConfigError if the channel has no release."""
    clear = agreed(pairs, params.adapt.max_problems)
    if len(clear) < params.adapt.min_problems:
        raise DataError(
            f"{domain}: {len(clear)} questions with one right answer in the traffic, adapt.min_problems asks for "
            f"{params.adapt.min_problems}; wait for more feedback"
        )
    production = production_of(params, places, channel)
    start = restore_candidate(production, places)
    restore_problems(production, places)
    file = write_problems(clear, places.root / FOLDER, domain, comments, tellers)
    served = production.manifest["domains"].get(domain)
    answer: AnswerSetting = answer_mode(served["spec"]) if served else ""
    verifier = text_of(served.get("verifier", {})) if served else ""
    data = file.relative_to(places.root).as_posix()
    return Adaptation(domain, data, len(clear), start, channel, answer, verifier, production.id)


def production_of(params: Params, places: Places, channel: str) -> Bundle:
    """Fetch and verify the bundle that the channel points at. Raises ConfigError if it has none."""
    bundle_id = Releases.open(params.store).channel(channel).bundle
    if bundle_id is None:
        raise ConfigError(f"channel {channel!r} has no release to adapt; release something first")
    return published(params, places, bundle_id)


def published(params: Params, places: Places, bundle_id: str) -> Bundle:
    """Fetch and verify a bundle of the store."""
    return Releases.open(params.store).fetch(bundle_id, places.fetched(bundle_id))


def params_of(production: Bundle) -> dict[str, Any] | None:
    """Return all parameters that a release was made with; None for a bundle that does not record them."""
    provenance = production.manifest["provenance"]
    return dict(upgraded(provenance["params"])) if provenance else None


def candidate_of(production: Bundle) -> str:
    """Return the id of the candidate that a release was made of; for a candidate, its own id."""
    return str(production.manifest["candidate"] or production.id)


def restore_candidate(production: Bundle, places: Places) -> str:
    """Write the candidate that production was made of next to the fetched bundles, byte for byte, because runs refer to
    what they continue by the candidate's id. Returns the name of the stage that made it."""
    run = production.manifest["run"]
    if run is None:
        return BASE
    folder = places.fetched(candidate_of(production))
    if not (folder / MANIFEST).exists():
        files = [path for path in production.manifest["files"] if path.endswith(".json") and "/" not in path]
        documents = {path: production.document(path) for path in files if path != "gate.json"}
        manifest = {k: v for k, v in candidate_manifest(production.manifest).items() if k != "files"}
        write_bundle(folder, manifest, documents, production.adapter)
    return str(run["domain"])


def restore_problems(production: Bundle, places: Places) -> None:
    """Deal the problems that production was measured on again, beside the project's own, if those are missing or
    different. A domain whose problems cannot be found is skipped; its evaluation reports that."""
    values = params_of(production)
    if values is None:
        return
    made_with = params_from_dict(in_order(values))
    for domain, facts in production.manifest["domains"].items():
        stage, sha256 = facts.get("stage", domain), facts["data_sha256"]
        with contextlib.suppress(FstError):
            problems(Workspace(made_with, places), stage, sha256)
            continue
        from fst.stages.prepare import deal_into  # here, as most adaptations find their problems in place

        folder = places.prepared(stage, sha256).absolute()
        try:
            with contextlib.chdir(places.root):
                deal_into(made_with.of_domain(stage), made_with.domain(stage).full_spec, folder)
            problems(Workspace(made_with, places), stage, sha256)
        except FstError:
            shutil.rmtree(folder, ignore_errors=True)
