"""`fst bench router`: how well the router tells known texts from unknown ones, on sets of texts (fst/bench/texts.py),
by several measures of novelty. Of each set two thirds, at most REFERENCES, are the reference of a release, and the rest
are texts yet to come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fst.bench.texts import text_sets
from fst.serving.router import Measure, Router

REFERENCES, FRESH = 200, 100
OTHERS = 60  # texts of every other set that are asked
KNOWN, UNKNOWN = 0.01, 0.95  # targets
_HEAD = f"{'known lost':>10} {'flagged, one served':>20} {'flagged, left out':>18}"


@dataclass(frozen=True)
class Trial:
    """A measure on all sets. `asked` maps (served set, asked set) to whether each text was taken for known by a router
    that serves the one set alone."""

    asked: Mapping[tuple[str, str], Sequence[bool]]
    routed: float  # share of the known texts that a router of all sets sends to their own

    @classmethod
    def of(cls, sets: Mapping[str, Sequence[str]], measure: Measure) -> Trial:
        asked, served = {}, {name: parts(texts)[0] for name, texts in sets.items()}
        for name in sets:
            router = Router({name: served[name]}, measure)
            for other, texts in sets.items():
                fresh = parts(texts)[1][:OTHERS] if other != name else parts(texts)[1]
                asked[name, other] = [route.known for route in router.routes(fresh)]
        router, right, of = Router(served, measure), 0, 0
        for name, texts in sets.items():
            found = [route.domain for route in router.routes(parts(texts)[1]) if route.known]
            right, of = right + found.count(name), of + len(found)
        return cls(asked, right / max(1, of))

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.asked))

    def lost(self, name: str) -> list[bool]:
        """Whether each known text of a set was called unknown."""
        return [not known for known in self.asked[name, name]]

    def flagged(self, name: str) -> list[bool]:
        """Whether each text of every other set was called unknown where one set is served."""
        return [not known for other in self.sets if other != name for known in self.asked[name, other]]

    def left_out(self, name: str) -> list[bool]:
        """Whether each text of a set was called unknown where all other sets are served."""
        known = [self.asked[other, name] for other in self.sets if other != name]
        return [not any(by) for by in zip(*known, strict=True)]


def parts(texts: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The reference of a set, and texts yet to come."""
    edge = min(REFERENCES, len(texts) * 2 // 3)
    return texts[:edge], texts[edge:]


def router_table(measures: Mapping[str, Measure]) -> Iterator[str]:
    """Lines of the comparison, and of the first measure, which the router uses, set by set."""
    sets = text_sets(REFERENCES + FRESH)
    yield (
        f"{len(sets)} sets of texts; targets: at most {KNOWN:.0%} of known texts called unknown, at least "
        f"{UNKNOWN:.0%} of unknown ones flagged"
    )
    yield f"{'measure':<34} {_HEAD} {'routed right':>13}"
    trials = {}
    for label, measure in measures.items():
        trial = trials[label] = Trial.of(sets, measure)
        shares = [
            share([found for name in sets for found in of(name)]) for of in (trial.lost, trial.flagged, trial.left_out)
        ]
        yield f"{label:<34} {shares[0]:>10.2%} {shares[1]:>20.1%} {shares[2]:>18.1%} {trial.routed:>13.1%}"
    chosen, trial = next(iter(trials.items()))
    yield f"{'set, by ' + chosen:<34} {_HEAD}"
    for name in sets:
        lost, flagged, left_out = map(share, (trial.lost(name), trial.flagged(name), trial.left_out(name)))
        yield f"{name:<34} {lost:>10.2%} {flagged:>20.1%} {left_out:>18.1%}"


def share(found: Sequence[bool]) -> float:
    """How many of the texts it holds for."""
    return sum(found) / max(1, len(found))
