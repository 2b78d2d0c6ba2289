"""An adaptation: bringing one served domain up to date from its traffic, by the stages that make every release.

    fast    its prompts, under the frozen weights of production (arm gepa); minutes
    slow    RL steps with the evolved prompts in place (arm fst), on top of the fast one, where that is not enough

Both are domains of their own to the stages, named by the content of the problems, that serve under the domain's name.
They are in no params.yaml: a release records all parameters that it was made with, so `fst reproduce` knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst.config import Params, params_from_dict, upgraded
from fst.data.domains import answer_mode
from fst.data.scored_by import text_of
from fst.errors import ConfigError, DataError
from fst.release.recipe import candidate_manifest, in_order
from fst.stages.places import Places
from fst.store.bundle import MANIFEST, Bundle, read_bundle, write_bundle
from fst.store.releases import Releases
from fst.traffic.problems import NO_COMMENTS, NOBODY, Pair, Tellers, agreed, write_problems
from fst.types import AnswerSetting

FOLDER = "data/traffic"


@dataclass(frozen=True)
class Adaptation:
    """What it is about. `domain` is what bundles call it, `data` its problem file below the project's root, `problems`
    how many there are; `start` is the stage whose candidate is in production on `channel`. `answer` is how answers are
    found in responses of the domain, as it is served now, and `verifier` what scores them (empty: equality); both are
    empty for a new one. `left_out` says, a sentence each, which tenants' feedback was not used."""

    domain: str
    data: str
    problems: int
    start: str
    channel: str
    answer: AnswerSetting = ""
    verifier: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def fast(self) -> str:
        """Name of the fast stage; the slow one's is `slow`."""
        return Path(self.data).stem

    @property
    def slow(self) -> str:
        return f"{self.fast}-slow"

    def domains(self, params: Params) -> dict[str, Any]:
        """Its two domains, as params.yaml would hold them."""
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
        """The project's parameters with these domains, and those that production was made of, in them."""
        provenance = production.manifest["provenance"] or {"params": {"domains": {}}}
        values = params.as_dict()
        known = {**upgraded(provenance["params"])["domains"], **values["domains"], **self.domains(params)}
        values["store"] = {**values["store"], "channel": self.channel}
        return params_from_dict(in_order({**values, "domains": known}))


def plan(
    params: Params,
    places: Places,
    domain: str,
    pairs: list[Pair],
    channel: str,
    comments: Mapping[str, str] = NO_COMMENTS,
    tellers: Tellers = NOBODY,
) -> Adaptation:
    """Write the problems down, with the comments on their questions and who gave their answers, and find what to build
    on. Raises DataError when there are too few, ConfigError when there is no production or it cannot be built on."""
    clear = agreed(pairs, params.adapt.max_problems)
    if len(clear) < params.adapt.min_problems:
        raise DataError(
            f"{domain}: {len(clear)} questions with one right answer in the traffic, adapt.min_problems asks for "
            f"{params.adapt.min_problems}; wait for more feedback"
        )
    production = production_of(params, places, channel)
    start = restore_candidate(production, places)
    file = write_problems(clear, places.root / FOLDER, domain, comments, tellers)
    served = production.manifest["domains"].get(domain)
    answer: AnswerSetting = answer_mode(served["spec"]) if served else ""
    verifier = text_of(served.get("verifier", {})) if served else ""
    data = file.relative_to(places.root).as_posix()
    return Adaptation(domain, data, len(clear), start, channel, answer, verifier)


def production_of(params: Params, places: Places, channel: str) -> Bundle:
    """What the channel points at, fetched and verified."""
    releases = Releases.open(params.store)
    bundle_id = releases.channel(channel).bundle
    if bundle_id is None:
        raise ConfigError(f"channel {channel!r} has no release to adapt; release something first")
    return releases.fetch(bundle_id, places.fetched(bundle_id))


def restore_candidate(production: Bundle, places: Places) -> str:
    """The stage that made production, its bundle in place: where the stages look for what they build on. Raises
    ConfigError when another one is there."""
    run = production.manifest["run"]
    if run is None:
        return "base"
    folder, expected = places.bundled(run["domain"]), production.manifest["candidate"]
    if not (folder / MANIFEST).exists():
        files = [path for path in production.manifest["files"] if path.endswith(".json") and "/" not in path]
        documents = {path: production.document(path) for path in files if path != "gate.json"}
        manifest = {k: v for k, v in candidate_manifest(production.manifest).items() if k != "files"}
        write_bundle(folder, manifest, documents, production.adapter)
    if read_bundle(folder).id != expected:
        raise ConfigError(
            f"{folder} is no longer what production was made of: that stage was run again since; release it "
            f"(`fst release {run['domain']}`), or remove the folder to build on production as it is"
        )
    return str(run["domain"])
