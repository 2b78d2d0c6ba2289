"""Collects a domain's problems from the traffic (questions with the right answers from feedback, and comments on wrong
answers), and plans the adaptation to them. A thumbs-up means that the release's answer is right; a comment does not
need a right answer with it. Tenants whose feedback contradicts the others' are left out (fst/traffic/trust.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fst.config import Params
from fst.data.answers import marked_answer, without_thinking
from fst.errors import DataError
from fst.monitoring.watcher import newcomers_of
from fst.release.adaptation import Adaptation, plan
from fst.serving.router import Router, embed
from fst.stages.places import Places
from fst.traffic.log import Feedback, Request, exchanges, read
from fst.traffic.problems import Pair, agreed
from fst.traffic.trust import LEAST, Suspect, Tally, fair, suspects

ALIKE = 0.9  # cosine from which two questions should have one answer
MOST_COMPARED = 2000  # the newest answers, used to find tenants that contradict the others
Told = tuple[Request, Feedback]


@dataclass(frozen=True)
class Collected:
    """Requests of a domain with feedback, in order: those for which it gave the right answer, and the others."""

    told: tuple[Told, ...]
    others: tuple[Told, ...] = ()

    @property
    def pairs(self) -> list[Pair]:
        """The (question, right answer) pairs."""
        return [(request.question, said.answer or "") for request, said in self.told]

    @property
    def comments(self) -> dict[str, str]:
        """The latest comment on a wrong answer, by question."""
        wrong = [one for one in (*self.others, *self.told) if one[1].reward is None or one[1].reward < 1]
        return {request.question: said.comment for request, said in wrong if said.comment.strip()}

    @property
    def tellers(self) -> dict[str, list[str]]:
        """The tenants that gave answers, by question."""
        found: dict[str, dict[str, None]] = {}
        for request, said in self.told:
            found.setdefault(request.question, {})[said.tenant] = None
        return {question: list(tenants) for question, tenants in found.items()}

    @property
    def suspects(self) -> list[Suspect]:
        """The tenants whose feedback contradicts the others'."""
        told = self.told[-MOST_COMPARED:]
        found = suspects(Tally.count(_by_release(told)), "the served responses")
        others = suspects(Tally.count(_by_others(told)), "other tenants' answers to questions alike")
        return [*found, *(s for s in others if s.tenant not in {suspect.tenant for suspect in found})]

    def without(self, found: Sequence[Suspect]) -> Collected:
        """Leave out the feedback of these tenants."""
        named = {suspect.tenant for suspect in found}
        told, others = (tuple(one for one in of if one[1].tenant not in named) for of in (self.told, self.others))
        return Collected(told, others)

    def lessons(self, params: Params) -> list[Pair]:
        """The newest distinct problems to learn, with one answer each; no tenant has more than `adapt.tenant_share`."""
        pairs, tellers, adapt = agreed(self.pairs, len(self.told)), self.tellers, params.adapt
        tenants = [tellers[question][-1] for question, _ in pairs]
        return [pairs[i] for i in fair(tenants, adapt.tenant_share, adapt.min_problems, adapt.max_problems)]


def _by_release(told: Sequence[Told]) -> Iterator[tuple[str, bool]]:
    """Yield (tenant, whether the served response is right by the tenant's answer) for questions like those of other
    tenants: a release may well be unable to answer a tenant that asks other things."""
    scored = [(request, said) for request, said in told if said.scored_by == "verifier" and said.reward is not None]
    for tenant in {said.tenant for _, said in scored}:
        mine = [one for one in scored if one[1].tenant == tenant]
        others = [request.question for request, said in scored if said.tenant != tenant]
        if len(mine) < LEAST or len(others) < LEAST:
            continue
        routes = Router({"others": others}).routes([request.question for request, _ in mine])
        yield from ((tenant, (said.reward or 0) >= 0.5) for (_, said), r in zip(mine, routes, strict=True) if r.known)


def _by_others(told: Sequence[Told]) -> Iterator[tuple[str, bool]]:
    """Yield (tenant, whether the nearest question of another tenant has the same answer), if a similar one exists."""
    if not told:
        return
    vectors = embed([request.question for request, _ in told]).astype(np.float32)
    tenants = np.array([said.tenant for _, said in told])
    answers = [(said.answer or "").strip().casefold() for _, said in told]
    for i, tenant in enumerate(tenants):
        near = np.where(tenants == tenant, -1.0, vectors @ vectors[i])
        if near[nearest := int(near.argmax())] >= ALIKE:
            yield str(tenant), answers[i] == answers[nearest]


def collected(log: Path, monitoring: Path, domain: str, since: float = 0.0) -> Collected:
    """Collect the requests since a time (seconds since the epoch) that have feedback: those that were served as the
    domain and, for a new domain, unrouted ones like the requests in which it was found."""
    records, _ = read(log)
    told = [
        (exchange.request, with_answer(exchange.request, exchange.feedback))
        for exchange in exchanges(records)
        if exchange.request.at >= since and exchange.request.variant != "shadow" and exchange.feedback
    ]
    own = [one for one in told if one[0].domain == domain]
    if newcomer := newcomers_of(monitoring).get(domain):
        unknown = [one for one in told if not one[0].domain]
        belongs = newcomer.belongs([request.question for request, _ in unknown])
        own += [one for one, mine in zip(unknown, belongs, strict=True) if mine]
    answered = tuple(one for one in own if one[1].answer is not None)
    return Collected(answered, tuple(one for one in own if one[1].answer is None))


def with_answer(request: Request, said: Feedback) -> Feedback:
    """Add the response's own answer to feedback that rates a complete response as right (reward 1) without giving an
    answer; other feedback is returned unchanged."""
    if said.answer is not None or said.reward != 1 or said.scored_by != "client" or request.finish != "stop":
        return said
    response = without_thinking(request.response).strip()
    return replace(said, answer=marked_answer(response) or response or None)


def plan_adaptation(params: Params, places: Places, domain: str, channel: str, since: float) -> Adaptation:
    """Plan the adaptation of a domain to its traffic since a time (seconds since the epoch). Raises DataError while
    there are too few problems, and ConfigError if the channel has no release or the release cannot be built on."""
    found = collected(places.root / params.traffic.folder, places.monitoring, domain, since)
    named = found.suspects
    rest = found.without(named)
    left_out = tuple(suspect.sentence for suspect in named)
    try:
        made = plan(params, places, domain, rest.lessons(params), channel, rest.comments, rest.tellers)
    except DataError as exc:
        raise DataError("; ".join([str(exc), *left_out])) from exc
    return replace(made, left_out=left_out)
