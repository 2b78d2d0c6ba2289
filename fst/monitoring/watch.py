"""Judges traffic: windows of requests in, alerts out.

A window is the next `drift.window` requests of the channel's release. A domain has drifted if one of its signals is
beyond its threshold in `windows_in_a_row` successive windows. It then raises no other alert during the cool-down, which
begins with the alert and again when the adaptation begins; a new release ends it.

A new domain needs no second window: so many requests that are unlike every served domain do not occur by chance,
whether they are like each other or not (fst/monitoring/newcomers.py). Each look searches the latest window for new
domains and, for domains that arrive slowly, the latest 3 and 10 windows. The longer spans require larger groups, since
up to STRANGE of the known requests are taken for unknown ones."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import binom

from fst.config import DriftParams
from fst.monitoring.alerts import Alert
from fst.monitoring.calibration import Thresholds
from fst.monitoring.newcomers import Newcomer, clusters, name_for
from fst.monitoring.signals import Reference, columns_of, distance, is_worse, mix_distance
from fst.traffic.log import Exchange, Request
from fst.traffic.trust import FAR, Tally, suspects

PAST_WINDOWS = 5  # windows that the mix of the next one is compared with
SPANS = (1, 3, 10)  # windows that are searched for new domains
STRANGE = 0.01  # largest share of known domains' requests that the router takes for unknown
CHANCE = 1e-4  # probability that these alone are enough in a span to look like a new domain
MOST_STRANGE = 400  # the latest unknown requests, which are searched


@dataclass
class Watch:
    """A channel's release with its reference and thresholds, and the state of watching it. `taken` has names that new
    domains may not have."""

    channel: str
    release: str
    reference: Reference
    thresholds: Thresholds
    params: DriftParams
    taken: frozenset[str] = frozenset()
    number: int = 0
    streaks: dict[str, list[float]] = field(default_factory=dict)  # domain -> when its windows beyond began
    quiet_until: dict[str, float] = field(default_factory=dict)
    newcomers: dict[str, Newcomer] = field(default_factory=dict)
    mixes: deque[list[str]] = field(default_factory=lambda: deque(maxlen=PAST_WINDOWS))
    seen: int = 0  # requests of this release
    strange: deque[tuple[int, Request]] = field(default_factory=lambda: deque(maxlen=MOST_STRANGE))  # with their number

    def judge(self, window: Sequence[Exchange], now: float) -> tuple[dict[str, Any], list[Alert]]:
        """Judge a full window; returns its record and the alerts it raises. `now` is in seconds since the epoch."""
        self.number += 1
        columns = columns_of(window, self.reference.most_tokens)
        scores = [score for key, column in columns.items() if (score := self._score(*key, column))]
        mix = [e.request.domain or "unknown" for e in window]
        record = {
            "at": now,
            "channel": self.channel,
            "release": self.release,
            "number": self.number,
            "requests": len(window),
            "unknown": mix.count("unknown"),
            "scores": scores,
            "mix": {domain: count / len(mix) for domain, count in sorted(Counter(mix).items())},
            "mix_score": round(mix_distance(mix, [name for past in self.mixes for name in past]), 4),
        }
        self.mixes.append(mix)
        return record, self._drifted(window, scores, now)

    def new_domains(self, fresh: Sequence[Request], now: float) -> list[Alert]:
        """Return an alert for each new domain to which at least one of these fresh requests belongs. A new domain that
        was found before keeps its name."""
        for request in fresh:
            self.seen += 1
            if not request.domain and request.routed == "unknown":
                self.strange.append((self.seen, request))
        alerts, came = [], {request.id for request in fresh}
        for windows in SPANS:
            span, before = windows * self.params.window, self.seen - windows * self.params.window
            recent = [request for number, request in self.strange if number > before]
            least = more_than_chance(span, self.params.new_domain_requests)
            for group in clusters([request.question for request in recent], least):
                mine = [recent[index] for index in group]
                if came.isdisjoint(request.id for request in mine):
                    continue
                found = self._named(mine)
                if now < self.quiet_until.get(found.name, 0.0):
                    continue
                self.quiet_until[found.name] = now + self.params.cool_down_seconds
                share, limit = len(mine) / min(span, self.seen), least / span
                signal = {"domain": "", "signal": "unlike all domains", "score": share, "threshold": limit}
                asked = tuple(request.question for request in mine[:5])
                facts = (found.name, self.channel, self.release, (signal,), asked)
                alerts.append(Alert(now, found.since, "new_domain", *facts))
            if before <= 0:
                break  # a longer span has no other requests
        return alerts

    def rest(self, adaptations: Mapping[str, float]) -> None:
        """Restart the cool-down of domains whose adaptation began; times are in seconds since the epoch."""
        for domain, at in adaptations.items():
            if domain in self.quiet_until:  # set by its alert under this release
                until = at + self.params.cool_down_seconds
                self.quiet_until[domain] = max(self.quiet_until[domain], until)

    def _score(self, domain: str, signal: str, column: Any) -> dict[str, Any] | None:
        least = self.params.min_scored if signal == "reward" else 10
        reference = self.reference.columns.get((domain, signal))
        if reference is None or len(column) < least:
            return None
        threshold = self.thresholds.of(domain, signal, len(column))
        if threshold is None:
            return None
        score = distance(column, reference)
        beyond = bool(score > threshold and is_worse(signal, column, reference))
        figures = {"score": round(score, 5), "threshold": round(threshold, 5), "mean": round(float(column.mean()), 4)}
        return {"domain": domain, "signal": signal, **figures, "beyond": beyond, "n": len(column)}

    def _drifted(self, window: Sequence[Exchange], scores: list[dict[str, Any]], now: float) -> list[Alert]:
        alerts = []
        began = window[0].request.at
        for domain in self.reference.domains:
            beyond = tuple(s for s in scores if s["domain"] == domain and s["beyond"])
            streak = self.streaks.setdefault(domain, [])
            if not beyond:
                streak.clear()
                continue
            streak.append(began)
            if len(streak) >= self.params.windows_in_a_row and now >= self.quiet_until.get(domain, 0.0):
                self.quiet_until[domain] = now + self.params.cool_down_seconds
                mine = [e.request.question for e in window if e.request.domain == domain]
                examples, signals = tuple(mine[:5]), (*beyond, *_contradicting(window, domain))
                alerts.append(Alert(now, streak[0], "drifted", domain, self.channel, self.release, signals, examples))
                streak.clear()
        return alerts

    def _named(self, mine: Sequence[Request]) -> Newcomer:
        """Return the newcomer for a group of requests: a new one, or the known one that most of them belong to, which
        also is recognised by them from then on."""
        texts = [request.question for request in mine]
        for known in self.newcomers.values():
            if sum(known.belongs(texts)) * 2 > len(texts):
                self.newcomers[known.name] = known.with_more(texts)
                return self.newcomers[known.name]
        taken = {*self.reference.domains, *self.newcomers, *self.taken}
        name = name_for(texts, self.reference.questions, taken)
        found = Newcomer(name, (), min(request.at for request in mine)).with_more(texts)
        self.newcomers[name] = found
        return found


def more_than_chance(span: int, least: int) -> int:
    """Return how many unknown requests among `span` are more than known domains would produce by chance, and at least
    `least`."""
    return max(least, 1 + int(binom.isf(CHANCE, span, STRANGE)))


def _contradicting(window: Sequence[Exchange], domain: str) -> list[dict[str, Any]]:
    """Make a signal for each tenant whose feedback contradicts the others': the share of its answers that are
    confirmed."""
    told = [e.feedback for e in window if e.request.domain == domain and e.feedback]
    scored = [(said.tenant, said.reward >= 0.5) for said in told if said.reward is not None]
    return [
        {
            "domain": domain,
            "signal": f"feedback of {suspect.tenant} contradicts the others', confirmed",
            "score": suspect.tally.confirmed / suspect.tally.of,
            "threshold": FAR * suspect.median,
        }
        for suspect in suspects(Tally.count(scored), "the served responses")
    ]
