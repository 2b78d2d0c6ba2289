"""A traffic scenario: the domains of its requests, their mix, the rate, and how often feedback gives the answer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from fst.data.domains import load_domain
from fst.data.types import Problem, SplitSizes, Verifier
from fst.errors import DataError

MOST_PROBLEMS = 4096  # per domain; after the last one they repeat


@dataclass(frozen=True)
class Phase:
    """A stretch of traffic: `seconds` at `rate` requests per second. `mix` has the share of each domain, `feedback` is
    the share of requests that are followed by feedback with the right answer."""

    seconds: float
    rate: float
    mix: Mapping[str, float]
    feedback: float


@dataclass(frozen=True)
class Source:
    """A domain of the scenario: `spec` is where its problems come from, `named` whether its requests name it, and
    `instruction` its task in plain words, used to measure what prompts alone could reach (not needed for lab rules,
    which have their own)."""

    spec: str
    named: bool = False
    instruction: str = ""


@dataclass(frozen=True)
class Scenario:
    """Phases that follow one another. The same seed gives the same questions at the same moments."""

    seed: int
    domains: Mapping[str, Source]
    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    def arrivals(self) -> Iterator[Arrival]:
        """Yield the requests in order of time; within a phase their times are a Poisson process."""
        rng = random.Random(self.seed)
        problems = {name: self._problems(source.spec) for name, source in self.domains.items()}
        verifiers = {name: verify for name, (_, verify) in problems.items()}
        streams = {name: itertools.cycle(found) for name, (found, _) in problems.items()}
        begun = 0.0
        for number, phase in enumerate(self.phases):
            moment = begun
            while (moment := moment + rng.expovariate(phase.rate)) < begun + phase.seconds:
                name = rng.choices(list(phase.mix), list(phase.mix.values()))[0]
                told = rng.random() < phase.feedback
                yield Arrival(moment, number, name, next(streams[name]), verifiers[name], told)
            begun += phase.seconds

    def prolonged(self, seconds: float) -> Scenario:
        """Return this scenario with a last phase of at least `seconds`."""
        *phases, last = self.phases
        return replace(self, phases=(*phases, replace(last, seconds=max(last.seconds, seconds))))

    def _problems(self, spec: str) -> tuple[tuple[Problem, ...], Verifier]:
        wanted = int(sum(phase.seconds * phase.rate for phase in self.phases)) + 1
        domain = load_domain(spec, SplitSizes(min(MOST_PROBLEMS, wanted), 1, 1), self.seed)
        return domain.train, domain.verify


@dataclass(frozen=True)
class Arrival:
    """A request: `moment` is in seconds since the scenario began, `told` is whether feedback will give the answer."""

    moment: float
    phase: int
    domain: str
    problem: Problem
    verify: Verifier
    told: bool


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises DataError, which names the file and the key."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise DataError(f"{path}: no scenario can be read from it ({exc})") from exc
    top = _keys(path, "", values, {"seed": int, "domains": dict, "phases": list})
    domains = {}
    for name, source in top["domains"].items():
        found = _keys(
            path, f"domains.{name}", source, {"spec": str, "named": bool, "instruction": str}, ("named", "instruction")
        )
        domains[str(name)] = Source(**found)
    phases = []
    for number, phase in enumerate(top["phases"]):
        where = f"phases[{number}]"
        found = _keys(path, where, phase, {"seconds": float, "rate": float, "mix": dict, "feedback": float})
        mix = {str(name): _number(path, f"{where}.mix.{name}", share) for name, share in found["mix"].items()}
        for name in mix:
            if name not in domains:
                raise DataError(f"{path}: {where}.mix.{name}: no such domain; known: {', '.join(domains) or 'none'}")
        if found["seconds"] <= 0 or found["rate"] <= 0 or not sum(mix.values()) > 0 or min(mix.values()) < 0:
            raise DataError(f"{path}: {where}: seconds, rate and the mix's shares are above 0")
        if not 0 <= found["feedback"] <= 1:
            raise DataError(f"{path}: {where}.feedback: {found['feedback']} is no share; give 0 to 1")
        phases.append(Phase(found["seconds"], found["rate"], mix, found["feedback"]))
    if not domains or not phases:
        raise DataError(f"{path}: a scenario has at least one domain and one phase")
    return Scenario(top["seed"], domains, tuple(phases))


def _keys(
    path: Path, where: str, values: Any, kinds: Mapping[str, type], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Check that a mapping has exactly these keys, with values of these types. Raises DataError."""
    before = f"{where}." if where else ""
    if not isinstance(values, dict):
        raise DataError(f"{path}: {where or 'the file'}: expected a mapping with {', '.join(kinds)}")
    for key in values:
        if key not in kinds:
            raise DataError(f"{path}: {before}{key}: unknown key; known: {', '.join(kinds)}")
    found = {}
    for key, kind in kinds.items():
        if key not in values:
            if key in optional:
                continue
            raise DataError(f"{path}: {before}{key}: is missing; add it")
        value = _number(path, f"{before}{key}", values[key]) if kind is float else values[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(f"{path}: {before}{key}: expected {kind.__name__}, found {values[key]!r}")
        found[key] = value
    return found


def _number(path: Path, where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{path}: {where}: expected a number, found {value!r}")
    return float(value)
