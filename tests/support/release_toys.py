"""Toys for the tests of the release commands: a project in a folder, with hand-made bundles that no model made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fst.config import Params, load_params
from fst.release.gate import Case, decide
from fst.stages.places import Places
from fst.store.bundle import Bundle, write_bundle
from fst.store.releases import Releases
from fst.types import prompt_id
from support.store_toys import toy_adapter

PARAMS = """
domains:
  zeta: {spec: lab/reverse, start: base}
  alpha: {spec: "lab/letters:reverse", start: zeta}
loop: {cycles: 3}
store: {url: store}
gate: {resamples: 200}
"""
COMMIT = "c0ffee" + "0" * 34
SEED = "solve the task"


def prompt(text: str, *parents: str, born: int = 0) -> dict[str, Any]:
    """A prompt; `parents` are texts."""
    facts = {"parents": [prompt_id(parent) for parent in parents], "origin": "reflection" if parents else "seed"}
    return {"id": prompt_id(text), "text": text, "born": born, **facts}


def entry(reward: float, best: str, **more: Any) -> dict[str, Any]:
    """What was measured on a domain; every one of 40 problems has this mean reward."""
    facts = {"split": "test", "samples": 4, "data_sha256": "d" * 64, "prompt": best, "prompt_tokens": 5}
    figures = {"reward": reward, "stderr": 0.01, "kl": 0.25, "kl_seed_prompt": 0.2, "tokens_per_answer": 12.5}
    return {**facts, **figures, "problems": {f"p{i}": reward for i in range(40)}, **more}


class ToyProject:
    """A project in the current folder: parameters, a local store, and bundles made by hand."""

    def __init__(self, root: Path, params: str = PARAMS) -> None:
        self.root, self.places = root, Places(root)
        (root / "params.yaml").write_text(params, encoding="utf-8")
        self.adapter = toy_adapter(root / "adapter")

    @property
    def params(self) -> Params:
        return load_params(self.places.params)

    @property
    def releases(self) -> Releases:
        store = self.params.store.replace(url=str(self.root / "store"))
        return Releases.open(store)

    def base(self) -> Bundle:
        manifest = {**self._facts(), "start": None, "domains": {}, "run": None, "metrics": {}}
        return write_bundle(self.places.bundled("base"), manifest, {"prompts.json": {}, "evaluation.json": {}}, None)

    def candidate(self, name: str, start: Bundle, reward: float, best: str = "reverse it", **more: Any) -> Bundle:
        """What the stage `bundle` leaves: a domain on top of those that `start` serves, all of the same reward.
        `more` changes the entry of this domain in evaluation.json."""
        shipped = [
            {**prompt(best, "turn it", born=2), "score": 1.0, "problems": {"p0": 1.0}},
            {**prompt("turn it", SEED, born=1), "score": 0.5, "problems": {"p0": 0.5}},
        ]
        prompts = {**start.prompts(), name: {"prompts": shipped, "ancestry": [prompt(SEED)]}}
        bests = {domain: facts["prompts"][0]["id"] for domain, facts in prompts.items()}
        entries = {domain: entry(reward, best_id) for domain, best_id in bests.items()}
        entries[name].update(more)
        rollouts = {"train": 320, "fast": 48, "eval": 640}
        manifest = {
            **self._facts(),
            "start": start.id,
            "domains": {
                domain: {
                    **{"spec": spec, "data_sha256": "d" * 64, "prompt": bests[domain]},
                    **({"verifier": entries[domain]["verifier"]} if "verifier" in entries[domain] else {}),
                }
                for domain, spec in (
                    *((d, f["spec"]) for d, f in start.manifest["domains"].items()),
                    (name, self.params.domain(name).spec),
                )
            },
            "run": {"domain": name, "arm": "fst", "seed": 7, "cycles": 3, "steps": 18, "rollouts": rollouts},
            "metrics": {
                domain: {key: one[key] for key in ("reward", "stderr", "kl", "tokens_per_answer")}
                for domain, one in entries.items()
            },
        }
        documents = {"prompts.json": prompts, "evaluation.json": entries}
        return write_bundle(self.places.bundled(name), manifest, documents, self.adapter)

    def release(self, candidate: Bundle, production: Bundle | None = None, **provenance: Any) -> Bundle:
        """What a release of a candidate leaves: the gate's decision and where it comes from, in the store, with the
        channel `prod` on it."""
        bundle = self.released(candidate, production, **provenance)
        name = f"{candidate.manifest['run']['domain']}: better" if candidate.manifest["run"] else "base"
        self.releases.move(self.releases.channel("prod"), self.releases.publish(bundle.folder), "release", name)
        return bundle

    def released(self, candidate: Bundle, production: Bundle | None = None, **provenance: Any) -> Bundle:
        """The same, in a folder alone."""
        before = production.evaluation() if production else {}
        cases = [
            Case(domain, ours, before.get(domain, entry(0.0, ours["prompt"])), domain in before)
            for domain, ours in candidate.evaluation().items()
        ]
        decision = decide(candidate.id, production.id if production else None, cases, self.params.gate_limits)
        manifest = {
            **candidate.manifest,
            "candidate": candidate.id,
            "gate": {"verdict": decision.verdict, "production": decision.production},
            "provenance": {
                "commit": COMMIT,
                "dvc_lock_sha256": "1" * 64,
                "params": self.params.as_dict(),
                **provenance,
            },
        }
        documents = {
            "prompts.json": candidate.prompts(),
            "evaluation.json": candidate.evaluation(),
            "gate.json": decision.as_dict(),
            **({"reference.json": candidate.reference()} if "reference.json" in candidate.manifest["files"] else {}),
        }
        return write_bundle(self.root / "released" / candidate.id[:8], manifest, documents, candidate.adapter)

    def _facts(self) -> Mapping[str, Any]:
        return {
            "schema": 1,
            "base": {"name": "lab", "sha256": "b" * 64},
            "params": {**self.params.of_run(), "bundle": {"prompts": 4}},
            "versions": {"torch": "2.13.0"},
            "candidate": None,
            "gate": None,
            "provenance": None,
        }
