"""The stages of dvc.yaml: prepare -> validate -> train -> evaluate -> bundle, for a domain that params.yaml names.

Each reads and writes places of fst/stages/places.py, and nothing else; its outputs hold no time, no path and no run id,
so that the same inputs give the same bytes whoever runs the stage. Training keeps its records and checkpoints outside
of its output, in a run folder named by a hash of everything that decides what it does: a stage that was cut
off goes on, and one whose inputs changed starts anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fst.config import Params
from fst.data.domains import load_domain
from fst.data.prepared import load_prepared, write_prepared
from fst.data.types import Domain
from fst.errors import ConfigError, DataError
from fst.files import document, replacing, write_atomic
from fst.method import ranks
from fst.method.learner import Learner
from fst.method.runner import VERSIONED, Job, room_of, run_rounds, sizes_of
from fst.method.start import start_key
from fst.models.policy import load_reader
from fst.runs.origin import base_sha256, data_sha256
from fst.runs.records import rollouts_of
from fst.stages.measure import Served
from fst.stages.outputs import read_document
from fst.stages.places import Places
from fst.stages.trained import export_run
from fst.store.bundle import Bundle, read_bundle, write_bundle
from fst.types import prompt_from_dict

SOURCES = Path(__file__).resolve().parents[1]  # the package
BASE = "base"


@dataclass(frozen=True)
class Stages:
    """A project's stages."""

    params: Params
    places: Places = field(default_factory=Places)
    quiet: bool = False

    def start(self, name: str) -> Bundle:
        """The bundle that a domain builds on."""
        return self.candidate(self.params.domain(name).start)

    def of(self, name: str) -> Params:
        """The parameters of a domain's stages, its own overrides included."""
        return self.params.of_domain(name)

    def problems(self, name: str, sha256: str | None = None) -> Domain:
        """A domain's prepared problems. Raises DataError when they are not those of a given hash."""
        domain = load_prepared(self.places.prepared(name))
        if sha256 is not None and data_sha256(domain) != sha256:
            raise DataError(
                f"{self.places.prepared(name)} has other problems than those that {name!r} was measured on; take the "
                f"bundle's commit, or run `dvc repro` so that all stages see the same data"
            )
        return domain

    def job(self, name: str) -> Job:
        """The training run of a domain."""
        params, domain, serves = self.of(name), self.params.domain(name), self.params.served_as(name)
        train, spec = params.train, domain.spec
        decisive = (train.arm, spec, train.seed, params.of_run(), base_sha256(params.model.base))
        taken_over = start_key(self.start(name), spec, serves)
        key = [*decisive, data_sha256(self.problems(name)), taken_over, sources_sha256()]
        run = f"{name}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]}"
        problems, start = self.places.prepared(name), self.places.bundled(domain.start)
        return Job(train.arm, spec, train.seed, self.places.runs / run, params, problems, start, serves)

    def runs(self) -> list[Path]:
        """Run folders about the domains: each domain's latest run, and those of other arms on the same problems."""
        specs = {facts.spec for facts in self.params.domains.values()}
        own, others = [], []
        for name in self.params.domains:
            found = list(self.places.runs.glob(f"{name}-{'[0-9a-f]' * 12}/events.jsonl"))
            own += [max(found, key=lambda events: events.stat().st_mtime).parent] if found else []
        for config in sorted(self.places.runs.glob("*/config.json")):
            facts = read_document(config, "fst train")
            if facts["domain"] in specs and facts["arm"] != self.params.train.arm:
                others.append(config.parent)
        return own + others

    # -- stages -----------------------------------------------------------------------------------------

    def base(self) -> Path:
        """The untrained base as a bundle that serves no domain: what the first domain builds on."""
        documents: dict[str, Any] = {"prompts.json": {}, "evaluation.json": {}, "reference.json": {}}
        return self._pack(BASE, None, {"domains": {}, "run": None, "metrics": {}}, documents, None)

    def prepare(self, name: str) -> Path:
        """Problems, dealt into splits and written down. A file of the user's is validated first, as it lies there:
        raises ValidationFailed with all its offending rows, which are on a page too."""
        params, spec = self.of(name), self.params.domain(name).spec
        reader = load_reader(params.model.base)
        if spec.endswith(".jsonl"):
            from fst.data.validation import check_raw

            check_raw(self.places.root / spec.removeprefix("jsonl:"), self.places.raw_page(name))
        with contextlib.chdir(self.places.root):  # a user's file is named from there
            domain = load_domain(spec, sizes_of(params), params.prepare.seed)

        def tokens(questions: list[str]) -> list[int]:
            return [len(ids) for ids in reader.encode([reader.messages("", question) for question in questions])]

        write_prepared(domain, self.places.prepared(name), tokens)
        return self.places.prepared(name)

    def validate(self, name: str) -> Path:
        """The data suites. Raises ValidationFailed with the offending rows; the page is there all the same."""
        from fst.data.validation import require, validate_prepared, write_page

        params = self.of(name)
        room = room_of(load_reader(params.model.base), params)
        found = [validate_prepared(self.places.prepared(name), params.validation, room)]
        page = self.places.validated(name) / "index.html"
        with replacing(self.places.validated(name)) as folder:
            (folder / "validation.json").write_text(document([v.as_dict() for v in found]), encoding="utf-8")
            write_page(found, folder / page.name)
        require(found, page)
        return self.places.validated(name)

    def train(self, name: str) -> Path:
        """The run to its end, its log validated, its weights and prompts written down."""
        for _ in self.train_rounds(name):
            pass
        return self.places.trained(name)

    def train_rounds(self, name: str) -> Iterator[Learner]:
        """`train`, round by round; yields its state after each, when it is saved."""
        from fst.data.validation import require, validate_rollouts, write_page

        job = self.job(name)
        yield from run_rounds(job, resume=True, quiet=self.quiet)
        if ranks.rank():
            return  # rank 0 has the record, and writes the outputs
        known = {problem.id for split in self._splits(name) for problem in split}
        log = validate_rollouts(rollouts_of(job.folder), name, known)
        write_page([log], job.folder / "rollouts.html")
        require([log], job.folder / "rollouts.html")
        export_run(job.folder, self.start(name), self.places.trained(name), self.places.curve(name))

    def evaluate(self, name: str) -> Path:
        """The trained policy on the held-out problems of its own domain, under every prompt of the population, and of
        every domain that it builds on, under the prompt that is served there. Of each, also what serving it looks like:
        answers to validation problems, with which live traffic is compared."""
        start, own = self.start(name), self.params.served_as(name)
        population = read_document(self.places.trained(name) / "prompts.json", f"fst stage train {name}")
        prompts = list(map(prompt_from_dict, population["prompts"]))
        served, domain = Served.load(self.of(name), self._adapter(name)), self.problems(name)
        found = {prompt.id: served.measure(domain, prompt) for prompt in prompts}
        entries = {own: served.entry(prompts[0], found[prompts[0].id], data_sha256(domain))}
        traffic = {own: {"rows": served.traffic(domain, prompts[0])}}
        for earlier, facts in start.manifest["domains"].items():
            if earlier != own:
                problems = self.problems(facts.get("stage", earlier), facts["data_sha256"])
                kept = prompt_from_dict(start.prompts()[earlier]["prompts"][0])
                entries[earlier] = served.entry(kept, served.measure(problems, kept), facts["data_sha256"])
                traffic[earlier] = {"rows": served.traffic(problems, kept)}
        before = start.evaluation()
        lost = [before[d]["reward"] - entries[d]["reward"] for d in entries if d in before and d != own]
        metrics = {
            **{key: entries[own][key] for key in ("reward", "stderr", "kl", "tokens_per_answer", "prompt_tokens")},
            "forgetting": round(max(lost, default=0.0), 6),
            "domains": {domain_name: entry["reward"] for domain_name, entry in entries.items()},
        }
        with replacing(self.places.evaluated(name)) as folder:
            scores = {key: evaluation.problems for key, evaluation in found.items()}
            (folder / "evaluation.json").write_text(document(entries), encoding="utf-8")
            (folder / "scores.json").write_text(document(scores), encoding="utf-8")
            (folder / "reference.json").write_text(document(traffic), encoding="utf-8")
        self.places.metrics(name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.places.metrics(name), document(metrics))
        return self.places.evaluated(name)

    def bundle(self, name: str) -> Path:
        """The deployable unit: the adapter, and the prompts of this domain beside those of the domains before it."""
        start, served_as, evaluated = self.start(name), self.params.served_as(name), self.places.evaluated(name)
        training = read_document(self.places.trained(name) / "training.json", f"fst stage train {name}")
        own = read_document(self.places.trained(name) / "prompts.json", f"fst stage train {name}")
        entries, scores, reference = (
            read_document(evaluated / f"{part}.json", f"fst stage evaluate {name}")
            for part in ("evaluation", "scores", "reference")
        )
        shipped = [{**p, "problems": scores[p["id"]]} for p in own["prompts"][: self.of(name).bundle.prompts]]
        prompts = {**start.prompts(), served_as: {"prompts": shipped, "ancestry": own["ancestry"]}}
        origins = {
            **{d: (facts["spec"], facts.get("stage", d)) for d, facts in start.manifest["domains"].items()},
            served_as: (self.params.domain(name).spec, name),
        }
        facts = {
            "domains": {
                d: {
                    "spec": spec,
                    "stage": stage,
                    "data_sha256": entries[d]["data_sha256"],
                    "prompt": entries[d]["prompt"],
                }
                for d, (spec, stage) in origins.items()
            },
            "run": {"domain": name, **{k: v for k, v in training.items() if k not in ("cells", "adapter_sha256")}},
            "metrics": {
                d: {key: entry[key] for key in ("reward", "stderr", "kl", "tokens_per_answer")}
                for d, entry in entries.items()
            },
        }
        documents = {"prompts.json": prompts, "evaluation.json": entries, "reference.json": reference}
        return self._pack(name, start.id, facts, documents, self._adapter(name))

    # -- parts ------------------------------------------------------------------------------------------

    def _pack(
        self,
        name: str,
        start: str | None,
        facts: dict[str, Any],
        documents: dict[str, Any],
        adapter: Path | None,
    ) -> Path:
        params = self.params if name == BASE else self.of(name)
        base = params.model.base
        manifest = {
            "schema": 1,
            "base": {"name": base, "sha256": base_sha256(base)},
            "start": start,
            "params": {**params.of_run(), "bundle": {"prompts": params.bundle.prompts}},
            "versions": {package: importlib.metadata.version(package) for package in VERSIONED},
            "candidate": None,
            "gate": None,
            "provenance": None,
            **facts,
        }
        write_bundle(self.places.bundled(name), manifest, documents, adapter)
        return self.places.bundled(name)

    def candidate(self, name: str) -> Bundle:
        """The bundle that a domain's stage made. Raises ConfigError when it is not there yet."""
        if not (self.places.bundled(name) / "manifest.json").exists():
            command = "fst stage base" if name == BASE else f"dvc repro bundle@{name}"
            raise ConfigError(f"{self.places.bundled(name)} is not there yet; make it with `{command}`")
        return read_bundle(self.places.bundled(name))

    def _adapter(self, name: str) -> Path | None:
        adapter = self.places.trained(name) / "adapter"
        return adapter if adapter.exists() else None

    def _splits(self, name: str) -> tuple[Any, ...]:
        domain = self.problems(name)
        return domain.train, domain.validation, domain.test


def sources_sha256() -> str:
    """Content hash of the code that training runs: other code, another run."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.rglob("*.py")):
        digest.update(file.relative_to(SOURCES).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
