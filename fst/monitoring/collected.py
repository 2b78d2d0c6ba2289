"""The problems of a domain in the traffic (its questions with the right answers that feedback gave), and the
adaptation that they make possible."""

from __future__ import annotations

from pathlib import Path

from fst.config import Params
from fst.monitoring.watch import newcomers_of
from fst.release.adaptation import Adaptation, plan
from fst.stages.places import Places
from fst.traffic.log import exchanges, read


def collected(log: Path, monitoring: Path, domain: str, since: float = 0.0) -> list[tuple[str, str]]:
    """(question, right answer) of the requests since a time (seconds since the epoch), in their order: those that were
    served as the domain and, for a new domain, those like the requests that it was found by."""
    records, _ = read(log)
    told = [
        (exchange.request, exchange.feedback.answer)
        for exchange in exchanges(records)
        if exchange.request.at >= since
        and exchange.request.variant != "shadow"
        and exchange.feedback
        and exchange.feedback.answer is not None
    ]
    pairs = [(request.question, answer) for request, answer in told if request.domain == domain]
    if newcomer := newcomers_of(monitoring).get(domain):
        unknown = [(request.question, answer) for request, answer in told if not request.domain]
        belongs = newcomer.belongs([question for question, _ in unknown])
        pairs += [pair for pair, mine in zip(unknown, belongs, strict=True) if mine]
    return pairs


def plan_adaptation(params: Params, places: Places, domain: str, channel: str, since: float) -> Adaptation:
    """The adaptation of a domain to its traffic since a time (seconds since the epoch). Raises DataError while there
    are too few problems, ConfigError when the channel has no release or it cannot be built on."""
    pairs = collected(places.root / params.traffic.folder, places.monitoring, domain, since)
    return plan(params, places, domain, pairs, channel)
