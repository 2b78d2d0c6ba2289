"""Releases a candidate: it is judged against production, bundled with the decision, and the channel moves to it.

The bundle has the candidate's files, the gate's decision, and where they come from (commit, hash of dvc.lock, the
project's parameters). Releasing a candidate that the channel already had changes nothing, so a release that was
interrupted at any point can simply be repeated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fst.data.domains import seed_prompt
from fst.data.types import Domain
from fst.errors import DataError, GateRefused
from fst.files import document, write_atomic
from fst.release.gate import Case, Decision, Entry, Finding, decide
from fst.release.history import ReleaseView, load_releases
from fst.runs.origin import commit
from fst.runs.trackers import Trackers
from fst.stages.outputs import candidate, problems
from fst.stages.workspace import Workspace
from fst.store.bundle import Bundle, write_bundle
from fst.store.channel import Channel
from fst.store.releases import Releases
from fst.types import Prompt, prompt_from_dict

if TYPE_CHECKING:
    from fst.stages.measure import Served


@dataclass(frozen=True)
class Candidate:
    """A stage's bundle that is to replace the bundle a channel points at."""

    workspace: Workspace
    releases: Releases
    name: str
    channel: Channel

    @classmethod
    def of(cls, workspace: Workspace, name: str, channel: str | None = None) -> Candidate:
        """Make the candidate of a domain's last `bundle` stage, with the channel as it is now."""
        releases = Releases.open(workspace.params.store)
        return cls(workspace, releases, name, releases.channel(channel or workspace.params.store.channel))

    @cached_property
    def bundle(self) -> Bundle:
        return candidate(self.workspace, self.name)

    @cached_property
    def production(self) -> Bundle | None:
        """The bundle that the channel points at, fetched and verified; None if the channel is empty."""
        if self.channel.bundle is None:
            return None
        return self.releases.fetch(self.channel.bundle, self.workspace.places.fetched(self.channel.bundle))

    @property
    def decision_file(self) -> Path:
        return self.workspace.places.decision(self.name)

    @cached_property
    def released_as(self) -> str | None:
        """The bundle that this candidate became in an earlier release on the channel, or None. It counts whatever came
        after it: it is still served, something that builds on it is served, or it was rolled back, which stands."""
        for bundle_id in dict.fromkeys(entry.bundle for entry in reversed(self.channel.history)):
            if self.releases.manifest(bundle_id)["candidate"] == self.bundle.id:
                return bundle_id
        return None

    def judge(self) -> Decision:
        """Ask the gate for its decision, write it to `decision_file` and show it in the trackers."""
        production = self.production
        limits = self.workspace.params.gate_limits
        decision = decide(self.bundle.id, production.id if production else None, list(self._cases()), limits)
        self.decision_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.decision_file, document(decision.as_dict()))
        self._show(decision)
        return decision

    def _show(self, decision: Decision) -> None:
        params, folder = self.workspace.params.track, f"gate-{self.name}-{self.bundle.id[:12]}"
        if params.to:
            judged = {"stage": self.name, "candidate": decision.candidate, "production": decision.production or ""}
            trackers = Trackers.open(params, self.workspace.places.runs / folder, judged)
            trackers.show({f"gate/{name}": value for name, value in decision.figures.items()}, 0)
            columns = [field.name for field in dataclasses.fields(Finding)]
            trackers.table("gate", columns, [dataclasses.astuple(finding) for finding in decision.findings], 0)
            trackers.close()

    def release(self, decision: Decision) -> str:
        """Publish the candidate and move the channel to it; returns the bundle's id.

        Raises GateRefused for a decision that says no, ChannelMoved when the channel moved since it was read.
        """
        if decision.verdict == "refuse":
            raise GateRefused(
                f"{self.name} was not released; production stays as it is:\n"
                + "\n".join(f"  - {reason}" for reason in decision.reasons)
                + f"\nthe decision with all figures: {self.decision_file}"
            )
        staging = self.workspace.places.bundled(self.name).parent
        with tempfile.TemporaryDirectory(prefix=".release-", dir=staging) as scratch:
            bundle = self._with_decision(decision, Path(scratch) / "bundle")
            released = self.releases.publish(bundle.folder)
        self.releases.move(self.channel, released, "release", f"{self.name}: {_headline(decision)}")
        return released

    def _with_decision(self, decision: Decision, folder: Path) -> Bundle:
        lock = self.workspace.places.root / "dvc.lock"
        manifest = {
            **self.bundle.manifest,
            "candidate": self.bundle.id,
            "gate": {"verdict": decision.verdict, "production": decision.production},
            "provenance": {
                "commit": commit(),
                "dvc_lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None,
                "params": self.workspace.params.as_dict(),
                "lineage": self._lineage(),
            },
        }
        documents = {
            "prompts.json": self.bundle.prompts(),
            "evaluation.json": self.bundle.evaluation(),
            "reference.json": self.bundle.reference(),
            "gate.json": decision.as_dict(),
        }
        return write_bundle(folder, manifest, documents, self.bundle.adapter)

    def _lineage(self) -> list[dict[str, str]]:
        """The candidates that this one builds on, with the names of their stages, the nearest first, as far as they are
        available here. Those that were released record how they were made; the others were made with this one."""
        found: list[dict[str, str]] = []
        above, name = self.bundle, self.name
        while above.manifest["start"] is not None:
            name = self.workspace.params.domain(name).start
            below = candidate(self.workspace, name)
            if below.id != above.manifest["start"]:
                break
            found.append({"stage": name, "candidate": below.id})
            above = below
        return found

    # -- what is compared -------------------------------------------------------------------------------

    def _cases(self) -> Iterator[Case]:
        """Yield a case for every live domain. Production's figures on the same problems are taken from its bundle; all
        others are measured now."""
        ours = self.bundle.evaluation()
        live = {**self._domains(self.production), **self._domains(self.bundle)}
        for domain, facts in live.items():
            served = self.production is not None and domain in self._domains(self.production)
            yield Case(domain, ours.get(domain), self._production_entry(domain, facts, ours.get(domain)), served)

    def _production_entry(self, domain: str, facts: dict[str, Any], ours: Entry | None) -> Entry | None:
        theirs = self.production.evaluation().get(domain) if self.production else None
        if ours is None or (theirs is not None and _comparable(ours, theirs)):
            return theirs
        try:
            held_out = problems(self.workspace, facts.get("stage", domain), facts["data_sha256"])
        except DataError:
            if theirs is None:
                raise
            return None  # an earlier domain whose problems are gone: the gate refuses for lack of coverage
        prompt = self._production_prompt(domain, held_out)
        return self._served.entry(prompt, self._served.measure(held_out, prompt), facts["data_sha256"])

    def _production_prompt(self, domain: str, held_out: Domain) -> Prompt:
        if self.production and domain in self._domains(self.production):
            return prompt_from_dict(self.production.prompts()[domain]["prompts"][0])
        return Prompt(seed_prompt(self.workspace.params.loop.seed_prompt, held_out))

    @cached_property
    def _served(self) -> Served:
        """Production's weights, or the base's without production. Imported lazily, as most releases measure nothing."""
        from fst.stages.measure import Served

        return Served.load(self.workspace.params, self.production.adapter if self.production else None)

    @staticmethod
    def _domains(bundle: Bundle | None) -> dict[str, Any]:
        return dict(bundle.manifest["domains"]) if bundle else {}


def release(workspace: Workspace, name: str, channel: str | None = None) -> tuple[str, Decision | None]:
    """Judge and release a domain's candidate. Returns (bundle id, decision); the decision is None if the candidate was
    released before. Raises GateRefused if the gate refuses it."""
    ours = Candidate.of(workspace, name, channel)
    if ours.released_as:
        return ours.released_as, None
    decision = ours.judge()
    return ours.release(decision), decision


def _comparable(ours: Entry, theirs: Entry) -> bool:
    return all(ours[key] == theirs[key] for key in ("split", "samples", "data_sha256"))


def _headline(decision: Decision) -> str:
    difference = decision.intervals[""]
    against = "production" if decision.production else "the untrained base"
    return f"reward {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] against {against}"


def releases_of(workspace: Workspace) -> list[ReleaseView]:
    """Return the history of the project's channel, move by move."""
    releases = Releases.open(workspace.params.store)
    history = releases.channel(workspace.params.store.channel).history
    return load_releases(history, lambda bundle: releases.fetch(bundle, workspace.places.fetched(bundle)))
