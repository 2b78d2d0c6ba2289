"""`fst bench router`: how well the router tells known texts from unknown ones, on sets of texts (fst/bench/texts.py).
Of each set two thirds, at most REFERENCES, are the reference of a release, and the rest are texts yet to come."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fst.bench.texts import Sets, measured_sets, small_sets, tuned_sets
from fst.config import DriftParams
from fst.monitoring.calibration import Thresholds
from fst.monitoring.signals import Reference
from fst.monitoring.watch import Watch
from fst.serving.router import Measure, Route, Router, likelihood
from fst.traffic.log import Request

REFERENCES, FRESH = 200, 60
KNOWN, UNKNOWN = 0.01, 0.95  # targets
WINDOWS, WINDOW, NEW = 10, 40, 20  # windows for each set, their requests, and the unknown ones among these
_HEAD = f"{'known lost':>10} {'left out':>9} {'alone':>7}"


@dataclass(frozen=True)
class Trial:
    """A measure on sets of texts, a share by set: `lost`, of its own fresh texts that a router of all sets called
    unknown; `flagged`, of its fresh texts that a router of all other sets did; `alone`, of the other sets' fresh texts
    that a router of this one did."""

    lost: Mapping[str, float]
    flagged: Mapping[str, float]
    alone: Mapping[str, float]

    @classmethod
    def of(cls, sets: Sets, measure: Measure = likelihood) -> Trial:
        served, fresh = halves(sets)
        router = Router(served, measure)
        lost = {name: unknown(router.routes(texts)) for name, texts in fresh.items()}
        flagged, alone = {}, {}
        for name in sets:
            flagged[name] = unknown(Router(without(served, name), measure).routes(fresh[name]))
            others = [text for texts in without(fresh, name).values() for text in texts]
            alone[name] = unknown(Router({name: served[name]}, measure).routes(others))
        return cls(lost, flagged, alone)

    def line(self, label: str) -> str:
        """The means of all sets."""
        lost, flagged, alone = (mean(of) for of in (self.lost, self.flagged, self.alone))
        return f"{label:<38} {lost:>10.2%} {flagged:>9.1%} {alone:>7.1%}"

    def lines(self) -> Iterator[str]:
        """A line a set."""
        for name in self.lost:
            yield f"{name:<38} {self.lost[name]:>10.2%} {self.flagged[name]:>9.1%} {self.alone[name]:>7.1%}"


def halves(sets: Sets) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
    """The reference of each set, and texts of it yet to come."""
    edges = {name: min(REFERENCES, len(texts) * 2 // 3) for name, texts in sets.items()}
    served: dict[str, Sequence[str]] = {name: texts[: edges[name]] for name, texts in sets.items()}
    return served, {name: texts[edges[name] : edges[name] + FRESH] for name, texts in sets.items()}


def windows(sets: Sets, new: int) -> dict[str, float]:
    """The share of windows that raise an alert about a new domain, by the set that is new: WINDOW requests, `new` of
    them of a set that the router does not serve."""
    served, fresh = halves(sets)
    found = {}
    for name in sets:
        questions = {other: tuple(texts) for other, texts in without(served, name).items()}
        router, rng = Router(questions), random.Random(name)
        others = [text for texts in without(fresh, name).values() for text in texts]
        raised = 0
        for _ in range(WINDOWS):
            texts = [rng.choice(fresh[name]) for _ in range(new)] + rng.sample(others, WINDOW - new)
            rng.shuffle(texts)
            watch = Watch("bench", "", Reference({}, questions), Thresholds({}), DriftParams(window=WINDOW))
            routes = router.routes(texts)
            requests = [_request(i, text, route) for i, (text, route) in enumerate(zip(texts, routes, strict=True))]
            raised += bool(watch.new_domains(requests, 0.0))
        found[name] = raised / WINDOWS
    return found


def router_table(measures: Mapping[str, Measure]) -> Iterator[str]:
    """Lines of the comparison; of the first measure, which the router uses, set by set; and of whole windows."""
    most = REFERENCES + FRESH
    tuned, measured, small = tuned_sets(most), measured_sets(most), small_sets(most)
    yield f"targets: at most {KNOWN:.0%} of known texts lost, at least {UNKNOWN:.0%} of a set that is left out flagged"
    yield f"{f'{len(measured)} sets that nothing was chosen on':<38} {_HEAD}"
    trials = {}
    for label, measure in measures.items():
        trials[label] = Trial.of(measured, measure)
        yield trials[label].line(label)
    yield from next(iter(trials.values())).lines()
    yield Trial.of(tuned).line(f"the {len(tuned)} sets it was chosen on")
    yield Trial.of({**measured, **tuned}).line(f"all {len(measured) + len(tuned)}")
    yield Trial.of({**measured, **small}).line(f"the {len(measured)} with {', '.join(small)}")
    for new in (NEW, 0):
        by_set = windows(measured, new)
        few = [name for name, share in by_set.items() if new and share < 1]
        yield (
            f"windows of {WINDOW} requests with {new} unknown ones that raise an alert: {mean(by_set):.1%}"
            f"{' (not all of ' + ', '.join(few) + ')' if few else ''}"
        )
    yield f"one text is routed in {_milliseconds(measured):.2f} ms, {len(measured)} domains served"


def _milliseconds(sets: Sets) -> float:
    """Median processor time that one text takes."""
    served, fresh = halves(sets)
    router, taken = Router(served), []
    for text in (text for texts in fresh.values() for text in texts[:10]):
        begun = time.process_time()
        router.route(text)
        taken.append(time.process_time() - begun)
    return float(np.median(taken)) * 1000


def _request(number: int, text: str, route: Route) -> Request:
    domain, routed = (route.domain, "router") if route.known else ("", "unknown")
    facts: Any = ("", "production", "", text, "", (0, 0), 0.0, "stop", 200)
    return Request(str(number), float(number), "bench", domain, routed, route.novelty, *facts)  # type: ignore[arg-type]


def unknown(routes: Sequence[Route]) -> float:
    """The share of texts that are."""
    return sum(not route.known for route in routes) / max(1, len(routes))


def without(sets: Mapping[str, Sequence[str]], name: str) -> dict[str, Sequence[str]]:
    """All sets but one."""
    return {other: texts for other, texts in sets.items() if other != name}


def mean(of: Mapping[str, float]) -> float:
    """Of all sets, which weigh the same."""
    return float(np.mean(list(of.values())))
