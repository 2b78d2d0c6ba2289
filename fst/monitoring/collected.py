"""The problems of a domain in the traffic (its questions with the right answers that feedback gave, and its comments on
wrong ones), and the adaptation that they make possible."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fst.config import Params
from fst.monitoring.watcher import newcomers_of
from fst.release.adaptation import Adaptation, plan
from fst.stages.places import Places
from fst.traffic.log import Feedback, Request, exchanges, read
from fst.traffic.problems import Pair

Told = tuple[Request, Feedback]


@dataclass(frozen=True)
class Collected:
    """Requests of a domain whose right answer feedback gave, in their order."""

    told: tuple[Told, ...]

    @property
    def pairs(self) -> list[Pair]:
        """(question, right answer) of each."""
        return [(request.question, said.answer or "") for request, said in self.told]

    @property
    def comments(self) -> dict[str, str]:
        """The last comment on an answer to each question that was not right."""
        wrong = [(request, said) for request, said in self.told if said.reward is None or said.reward < 1]
        return {request.question: said.comment for request, said in wrong if said.comment.strip()}


def collected(log: Path, monitoring: Path, domain: str, since: float = 0.0) -> Collected:
    """The requests since a time (seconds since the epoch) with their right answers: those that were served as the
    domain and, for a new domain, those like the requests that it was found by."""
    records, _ = read(log)
    told = [
        (exchange.request, exchange.feedback)
        for exchange in exchanges(records)
        if exchange.request.at >= since
        and exchange.request.variant != "shadow"
        and exchange.feedback
        and exchange.feedback.answer is not None
    ]
    own = [one for one in told if one[0].domain == domain]
    if newcomer := newcomers_of(monitoring).get(domain):
        unknown = [one for one in told if not one[0].domain]
        belongs = newcomer.belongs([request.question for request, _ in unknown])
        own += [one for one, mine in zip(unknown, belongs, strict=True) if mine]
    return Collected(tuple(own))


def plan_adaptation(params: Params, places: Places, domain: str, channel: str, since: float) -> Adaptation:
    """The adaptation of a domain to its traffic since a time (seconds since the epoch). Raises DataError while there
    are too few problems, ConfigError when the channel has no release or it cannot be built on."""
    found = collected(places.root / params.traffic.folder, places.monitoring, domain, since)
    return plan(params, places, domain, found.pairs, channel, found.comments)
