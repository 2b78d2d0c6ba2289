"""`fst bench poison --train`: adaptations of the lab to a new domain, while one tenant tells every answer backwards.

A release that serves one domain answers the requests of another; the watcher raises its alert, the problems are
collected, prompts (and weights, where these are not enough) are trained, the gate judges, and the channel moves: all of
it as in a project, in a temporary folder. Then the channel's release is measured on problems whose answers are true."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fst.bench.poison import HONEST, LIAR, SCORED, SHARES, backwards, tenant_of
from fst.config import Params, params_from_dict
from fst.data.domains import load_domain
from fst.data.types import TENANTS, Domain, SplitSizes
from fst.errors import ConfigError, DataError
from fst.method.rollouts import Asker
from fst.monitoring.alerts import Alert
from fst.monitoring.collected import Told, plan_adaptation
from fst.monitoring.follow import watcher_of
from fst.monitoring.signals import reference_of
from fst.release.adaptation import production_of
from fst.release.attainable import plain_words
from fst.release.candidate import Candidate, release
from fst.release.gate import trusted
from fst.serving.feedback import Remembered, reward_of
from fst.serving.router import Router
from fst.stages.base import base
from fst.stages.bundle import bundle
from fst.stages.evaluate import evaluate
from fst.stages.measure import Served
from fst.stages.outputs import problems
from fst.stages.places import Places
from fst.stages.prepare import prepare
from fst.stages.train import train
from fst.stages.validate import validate
from fst.stages.workspace import Workspace
from fst.store.bundle import Bundle
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from fst.traffic.trust import mark
from fst.types import Prompt, prompt_from_dict

NAME, SERVED, NEW = "digits", "lab/sort_desc+add_one", "lab/letters:sort_desc+drop_last"
LOOK = 10  # requests from one look of the watcher to the next


@dataclass(frozen=True)
class Judged:
    """A candidate of the adaptation. `how` is fast or slow, `reward` what is compared with adapt.enough."""

    how: str
    verdict: str
    reward: float
    named: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return f"{self.how}: {self.verdict} at a reward of {self.reward:.3f}, the gate names {_named(self.named)}"


@dataclass(frozen=True)
class Poisoned:
    """What came of an adaptation: of its problems, the share whose answer is false; what the alert said; the tenants
    that were left out when collecting; its candidates; and the domain's best prompt on the channel in the end, with
    its accuracy on problems whose answers are true."""

    problems: int
    false: float
    alert: str
    left_out: tuple[str, ...]
    candidates: tuple[Judged, ...]
    prompt: str
    accuracy: float

    @property
    def released(self) -> bool:
        return any(candidate.verdict == "release" for candidate in self.candidates)

    def lines(self) -> Iterator[str]:
        yield f"alert: {self.alert}"
        yield f"collected: {self.problems} problems, {self.false:.1%} of them false, left out {_named(self.left_out)}"
        yield from (candidate.sentence for candidate in self.candidates)
        yield f"{'released' if self.released else 'not released'}: accuracy {self.accuracy:.1%} under {self.prompt!r}"


def poisoned(params: Params, trials: int, scored: int = SCORED, shares: Sequence[float] = SHARES) -> Iterator[str]:
    """Lines: what comes of `trials` adaptations at each share of false feedback. Raises ConfigError for a model other
    than the lab's, which alone can do the lab's rules."""
    if params.model.base != "lab":
        raise ConfigError(f"model.base: {params.model.base} does not know the lab's rules; leave it at `lab`")
    params = of_site(params)
    with tempfile.TemporaryDirectory(prefix="fst-poison-") as scratch:
        site = Path(scratch) / "site"
        yield f"training a release that serves {SERVED}"
        before, plain = make_site(params, site)
        yield f"{NEW}: accuracy {before:.1%} under that release, {plain:.1%} with the rule in plain words"
        for seed in range(trials):
            for share in shares:
                began = time.monotonic()
                yield f"{share:.0%} of {scored} scored requests are one tenant's, who tells lies (seed {seed})"
                found = adapted(params, site, share, seed, scored)
                yield from (f"  {line}" for line in found.lines())
                yield f"  {time.monotonic() - began:.0f} s"


def of_site(params: Params) -> Params:
    """The same parameters in a project of its own, with one domain; nothing goes to trackers or a store elsewhere."""
    own = {"store": {}, "track": {}, "traffic": {}, "domains": {NAME: {"spec": SERVED}}}
    return params_from_dict({**params.as_dict(), **own})


def make_site(params: Params, site: Path) -> tuple[float, float]:
    """Make a project in a folder whose release serves one domain. Returns the accuracies of that release on the new
    domain, under its seed prompt and under the rule in plain words. Raises GateRefused where too little was learned."""
    site.mkdir(parents=True)
    with contextlib.chdir(site):
        workspace = Workspace(params)
        base(workspace)
        _make(workspace, NAME)
        release(workspace, NAME)
        watcher_of(params, workspace.places, params.store.channel).look()
        serving = Served.load(params, production_of(params, workspace.places, params.store.channel).adapter)
        texts = params.loop.seed_prompt, plain_words(NEW)
        before, plain = (serving.measure(_true(params), Prompt(text)).accuracy for text in texts)
    return before, plain


def adapted(params: Params, site: Path, share: float, seed: int, scored: int) -> Poisoned:
    """What comes of one adaptation, in a copy of the project at `site`."""
    with tempfile.TemporaryDirectory(prefix="trial-", dir=site.parent) as folder:
        shutil.copytree(site, folder, dirs_exist_ok=True)
        with contextlib.chdir(folder):
            return _adapted(params, share, seed, scored)


def _adapted(params: Params, share: float, seed: int, scored: int) -> Poisoned:
    places, channel, enough = Places(), params.store.channel, params.adapt.enough
    watcher, production = watcher_of(params, places, channel), production_of(params, places, channel)
    log, alerts = TrafficLog(places.root / params.traffic.folder, LogLimits()), list[Alert]()
    asked = load_domain(NEW, SplitSizes(scored, 1, 1), seed)
    for number, exchange in enumerate(_exchanges(params, production, asked, share, seed), 1):
        for record in exchange:
            log.append(record)
        if number % LOOK == 0:
            alerts += watcher.look()
    log.close()
    if not alerts:
        raise DataError(f"{scored} requests raised no alert about a new domain; send more of them, with --scored")
    alert = alerts[0]
    plan = plan_adaptation(params, places, alert.domain, channel, alert.since)
    workspace, judged = plan.workspace(params, places, production), list[Judged]()
    for how, name in (("fast", plan.fast), ("slow", plan.slow)):
        judged.append(_judged(workspace, how, name))
        good = judged[-1].verdict == "release" and judged[-1].reward >= enough
        if good or not params.adapt.slow_cycles:
            break
    told = [mark(LIAR) in problem.meta[TENANTS] for problem in problems(workspace, plan.fast).problems]
    prompt, accuracy = _measured(params, production_of(params, places, channel), alert.domain)
    facts = (sum(told) / len(told), alert.sentence, plan.left_out, tuple(judged), prompt.text, accuracy)
    return Poisoned(len(told), *facts)


def _exchanges(params: Params, production: Bundle, asked: Domain, share: float, seed: int) -> Iterator[Told]:
    """The training problems of a domain as requests that the release answered, with the right answers that tenants
    told, or the liar's."""
    rng, router = random.Random(f"poisoned {seed} {share}"), Router(reference_of(production.reference()).questions)
    routes = router.routes([problem.question for problem in asked.train])
    best = {name: prompt_from_dict(found["prompts"][0]) for name, found in production.prompts().items()}
    prompts = [best[route.domain] if route.known else Prompt(params.loop.seed_prompt) for route in routes]
    asker = Asker(Served.load(params, production.adapter).policy, asked.verify, "eval", weights=0)
    answers = asker.ask(list(zip(prompts, asked.train, strict=True)), 1, seed)
    for i, (problem, route, answer) in enumerate(zip(asked.train, routes, answers, strict=True)):
        tenant, domain = tenant_of(share, rng), route.domain if route.known else ""
        told = backwards(problem.answer) if tenant == LIAR else problem.answer
        remembered = Remembered(tenant, domain, problem.question, answer.text, production.id)
        request = Request(
            f"r{i}", time.time(), tenant, domain, "router" if domain else "unknown", route.novelty, production.id,
            "production", answer.prompt_id if domain else "", problem.question, answer.text,
            (0, len(answer.tokens)), 0.0, "length" if answer.cut else "stop", 200,
        )  # fmt: skip
        reward = reward_of(remembered, told, production.manifest)
        yield request, Feedback(request.id, time.time(), tenant, reward, told, "", "verifier")


def _make(workspace: Workspace, name: str) -> None:
    """What a domain's stages make, as the flows run them."""
    for stage in (prepare, validate):
        stage(workspace, name)
    train(workspace, name, quiet=True)
    for stage in (evaluate, bundle):
        stage(workspace, name)


def _judged(workspace: Workspace, how: str, name: str) -> Judged:
    """A stage's candidate, made, judged, and released if it passes."""
    _make(workspace, name)
    candidate = Candidate.of(workspace, name)
    decision = candidate.judge()
    if decision.verdict == "release":
        candidate.release(decision)
    named = tuple(finding.sentence for finding in decision.findings if finding.rule == "feedback")
    reward = trusted(candidate.bundle.evaluation()[workspace.params.served_as(name)])
    return Judged(how, decision.verdict, reward, named)


def _true(params: Params) -> Domain:
    """Held-out problems of the new domain, the same for all seeds; none of them is ever asked."""
    return load_domain(NEW, SplitSizes(1, 1, params.prepare.test), 0)


def _measured(params: Params, release: Bundle, domain: str) -> tuple[Prompt, float]:
    """A release's best prompt for a domain (the seed prompt where it does not serve it), and its accuracy."""
    served = release.prompts().get(domain)
    prompt = prompt_from_dict(served["prompts"][0]) if served else Prompt(params.loop.seed_prompt)
    return prompt, Served.load(params, release.adapter).measure(_true(params), prompt).accuracy


def _named(sentences: Sequence[str]) -> str:
    """The tenants in sentences about them, by their names."""
    text = " ".join(sentences)
    found = [name for name in (LIAR, *HONEST) if name in text or mark(name) in text]
    return ", ".join(found) or "nobody"
