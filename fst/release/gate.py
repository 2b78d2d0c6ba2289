"""The gate decides whether a candidate may replace production. Pure: figures in, a decision with its reasons out.

Both are compared problem by problem on the held-out problems of every live domain: those that production serves
and those that the candidate adds. On a domain that it does not serve, production is measured as it would answer such
traffic: its weights under the seed prompt. Without a production release, the untrained base takes its place.

Rules, each with the number it judged (all are evaluated, so that a refusal is complete):
 reward      the paired bootstrap interval of the mean difference, every domain weighing the same. Above zero: better.
             Below: refused. Containing zero: a tie, which keeps production unless `gate.tie` says otherwise
 forgetting  a domain that production serves loses at most `max_forgetting` of its reward
 coverage    every domain that production serves has held-out problems and is served by the candidate
 kl          KL from the base, at most `max_kl` on each domain
 prompt      tokens of each domain's best prompt, at most `max_prompt_tokens`
 feedback    refuses nothing: held-out problems of a tenant whose feedback contradicts the others' are left out of all
             comparisons, and the tenant is named (fst/traffic/trust.py; the candidate's answers are the evidence)
 cost        tokens per answer without its prompt's, at most `max_cost_ratio` of production's, on each domain that
             production serves; prompts have their own rule, and requests share them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fst.config import GateParams
from fst.data.types import TENANTS
from fst.traffic.trust import FAR, Suspect, Tally, suspects

Entry = Mapping[str, Any]  # a domain's entry of evaluation.json
Verdict = Literal["release", "refuse"]


@dataclass(frozen=True)
class Case:
    """A live domain. `candidate` and `production` are their measured entries, None if there is nothing to measure;
    `served` is whether production serves the domain."""

    domain: str
    candidate: Entry | None
    production: Entry | None
    served: bool


@dataclass(frozen=True)
class Finding:
    """What one rule found. `value` is judged against `limit`; `domain` is empty for a rule about all of them."""

    rule: str
    domain: str
    passed: bool
    value: float
    limit: float
    sentence: str


@dataclass(frozen=True)
class Interval:
    """A mean difference, candidate minus production, with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """The verdict with everything that led to it. `intervals` has the difference for each domain, and for all under
    ""."""

    verdict: Verdict
    candidate: str
    production: str | None
    findings: tuple[Finding, ...]
    intervals: Mapping[str, Interval]
    limits: GateParams

    @property
    def reasons(self) -> list[str]:
        """The reasons against a release, one sentence each."""
        return [finding.sentence for finding in self.findings if not finding.passed]

    @property
    def figures(self) -> dict[str, float]:
        """The judged figures by rule and domain, the mean difference over all domains with its interval, and the
        verdict (`release`: 1 or 0)."""
        found = {"/".join(filter(None, (finding.rule, finding.domain))): finding.value for finding in self.findings}
        interval = {f"difference/{name}": value for name, value in vars(self.intervals[""]).items()}
        return {**found, **interval, "release": float(self.verdict == "release")}

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "limits": self.limits.as_dict()}


def decide(candidate: str, production: str | None, cases: Sequence[Case], limits: GateParams) -> Decision:
    """Judge a candidate against production (both by id) with `Params.gate_limits`. Deterministic for `limits.seed`."""
    named = {case.domain: _suspects(case) for case in cases}
    cases = [_without(case, {suspect.tenant for suspect in named[case.domain]}) for case in cases]
    intervals = bootstrap(cases, limits)
    findings = [*_reward(intervals[""], limits), *(f for case in cases for f in _domain(case, intervals, limits))]
    findings += [_feedback(domain, suspect) for domain, found in named.items() for suspect in found]
    verdict: Verdict = "release" if all(f.passed for f in findings) else "refuse"
    return Decision(verdict, candidate, production, tuple(findings), intervals, limits)


def trusted(entry: Entry) -> float:
    """Return the mean reward on a domain's held-out problems, without those of tenants that the gate distrusts."""
    case = Case("", entry, None, served=False)
    rest = _without(case, {suspect.tenant for suspect in _suspects(case)}).candidate
    assert rest is not None  # it was there before
    return _figure(np.mean(list(rest["problems"].values())))


def bootstrap(cases: Sequence[Case], limits: GateParams) -> dict[str, Interval]:
    """Compute a paired percentile bootstrap over problems, stratified by domain. A problem that only one side was asked
    is left out; a domain that only one side was measured on has no interval."""
    generator = np.random.default_rng(limits.seed)
    tails = [100 * (1 - limits.confidence) / 2, 100 * (1 + limits.confidence) / 2]
    means, draws = {}, {}
    for case in cases:
        if case.candidate and case.production:
            ours, theirs = case.candidate["problems"], case.production["problems"]
            differences = np.array([ours[key] - theirs[key] for key in sorted(ours.keys() & theirs.keys())])
            if len(differences):
                picks = generator.integers(len(differences), size=(limits.resamples, len(differences)))
                means[case.domain], draws[case.domain] = differences.mean(), differences[picks].mean(1)
    if draws:
        means[""], draws[""] = np.mean(list(means.values())), np.mean(list(draws.values()), axis=0)
    intervals = {key: Interval(_figure(means[key]), *map(_figure, np.percentile(draws[key], tails))) for key in draws}
    return {"": Interval(0.0, 0.0, 0.0), **intervals}


def _figure(value: float) -> float:
    return round(float(value), 6)


def _reward(difference: Interval, limits: GateParams) -> Iterator[Finding]:
    stated = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}] at {limits.confidence:.0%}"
    if difference.low > 0:
        passed, says = True, f"reward is higher than production's by {stated}"
    elif difference.high < 0:
        passed, says = False, f"reward is lower than production's: {stated}"
    else:
        passed = limits.tie == "replace"
        says = f"reward ties with production's: {stated}; gate.tie is {limits.tie!r}"
    yield Finding("reward", "", passed, difference.mean, 0.0, says)


def _domain(case: Case, intervals: Mapping[str, Interval], limits: GateParams) -> Iterator[Finding]:
    name, ours, theirs = case.domain, case.candidate, case.production
    if case.served:
        covered = ours is not None and theirs is not None and name in intervals
        if covered:
            says = f"{name}: compared on {len(ours['problems'])} held-out problems" if ours else ""
        elif ours is None:
            says = f"{name}: production serves it and the candidate does not, or it has no held-out problems here"
        else:
            says = f"{name}: production serves it and no held-out problem could be compared"
        yield Finding("coverage", name, covered, float(covered), 1.0, says)
    if ours is None:
        return
    yield _at_most("kl", name, ours["kl"], limits.max_kl, "KL from the base of {0:.3f} nats a token")
    if limits.max_prompt_tokens is not None:
        yield _at_most("prompt", name, ours["prompt_tokens"], limits.max_prompt_tokens, "a prompt of {0:.0f} tokens")
    if case.served and theirs is not None and name in intervals:
        change = intervals[name]
        says = f"lost {{0:.3f}} of reward ({change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}])"
        yield _at_most("forgetting", name, max(0.0, -change.mean), limits.max_forgetting, says)
        cost, before = (entry["tokens_per_answer"] - entry["prompt_tokens"] for entry in (ours, theirs))
        says = "{0:.2f} of production's tokens an answer, prompts aside"
        yield _at_most("cost", name, _figure(cost / max(1e-9, before)), limits.max_cost_ratio, says)


def _suspects(case: Case) -> list[Suspect]:
    """Find the tenants on whose held-out problems the candidate has far fewer right answers than on the others'."""
    if case.candidate is None:
        return []
    rewards = case.candidate["problems"]
    held_out = {tenant: found["held_out"] for tenant, found in case.candidate.get(TENANTS, {}).items()}
    right = [(tenant, rewards[key] >= 0.5) for tenant, keys in held_out.items() for key in keys if key in rewards]
    return suspects(Tally.count(right), "the candidate")


def _without(case: Case, named: Collection[str]) -> Case:
    """Remove from a case the held-out problems that come only from these tenants' feedback."""
    if case.candidate is None or not named:
        return case
    told = {tenant: set(found["held_out"]) for tenant, found in case.candidate[TENANTS].items()}
    kept = set().union(*(keys for tenant, keys in told.items() if tenant not in named))
    gone = set().union(*(told[tenant] for tenant in named)) - kept

    def rest(entry: Entry | None) -> Entry | None:
        return entry and {**entry, "problems": {k: v for k, v in entry["problems"].items() if k not in gone}}

    return dataclasses.replace(case, candidate=rest(case.candidate), production=rest(case.production))


def _feedback(domain: str, suspect: Suspect) -> Finding:
    rate = _figure(suspect.tally.confirmed / suspect.tally.of)
    says = f"{domain}: {suspect.sentence}; its held-out problems are left out"
    return Finding("feedback", domain, True, rate, _figure(FAR * suspect.median), says)


def _at_most(rule: str, domain: str, value: float, limit: float, says: str) -> Finding:
    passed = value <= limit
    verdict = "within" if passed else f"over by {value - limit:.3g},"
    return Finding(
        rule, domain, passed, value, limit, f"{domain}: {says.format(value)}, {verdict} the limit of {limit:g}"
    )
