"""Whose feedback to learn from. Pure: counts of tenants in, names of tenants out.

Feedback becomes training data, and everybody with a key can give it. A tenant is named when its feedback contradicts
that of the others: far fewer of its answers are confirmed than of theirs. Anything that is right more often by true
answers than by false ones can confirm an answer:

    release     the response that was served is right by it (the domain's verifier), where others asked alike
    others      the nearest question of another tenant has the same answer
    candidate   the adapted candidate answers the held-out problem as it says; read by the gate

The rule compares tenants with each other, so evidence that confirms nobody names nobody: a release has no right answers
in a new domain, where only the candidate can tell. It cannot tell a tenant that lies from one whose tasks alone
changed: both are left out and named, and a person decides. More tenants that lie than not are believed.

The rate of a tenant is far below when its upper bound is below FAR of the median of all tenants' lower bounds (Wilson
1927, one-sided, ALPHA over the number of tenants). Tenants with fewer than LEAST answers are neither named nor counted.

Invariants, each with a test: W1 fewer than half of the tenants are named, so none of two; W2 neither names nor order
matter; W3 one more confirmed answer never gets its tenant named; W4 tenants of one rate are hardly ever named; W5 one
that only lies is named once it said enough, 20 answers beside others of which 90% are confirmed; W6 `fair` keeps the
newest, of no tenant more than its share, as many as this allows, and never fewer than `least` while there are as many;
W7 one tenant alone is kept whole."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ALPHA = 0.05
FAR = 0.5
LEAST = 8  # answers


@dataclass(frozen=True)
class Tally:
    """Answers of a tenant that there is evidence about, and how many of them it confirms."""

    confirmed: int
    of: int

    @classmethod
    def count(cls, found: Iterable[tuple[str, bool]]) -> dict[str, Tally]:
        """The tallies of tenants from (tenant, confirmed) of single answers."""
        answers = list(found)
        of, confirmed = Counter(tenant for tenant, _ in answers), Counter(tenant for tenant, yes in answers if yes)
        return {tenant: cls(confirmed[tenant], n) for tenant, n in of.items()}

    def bound(self, z: float) -> float:
        """Wilson's bound of the rate: the upper one for z > 0, the lower one for z < 0."""
        n, rate = self.of, self.confirmed / self.of
        spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        return min(1.0, max(0.0, (rate + z * z / (2 * n) + spread) / (1 + z * z / n)))


@dataclass(frozen=True)
class Suspect:
    """A tenant that is named, with its tally and the median rate of all tenants."""

    tenant: str
    tally: Tally
    median: float
    by: str

    @property
    def sentence(self) -> str:
        return (
            f"the feedback of {self.tenant} contradicts the others': {self.tally.confirmed} of {self.tally.of} answers "
            f"are confirmed by {self.by}, {self.median:.0%} in the median of all tenants"
        )


def suspects(tallies: Mapping[str, Tally], by: str) -> list[Suspect]:
    """The tenants to leave out, by name; `by` says in words what confirms an answer."""
    judged = {tenant: tally for tenant, tally in tallies.items() if tally.of >= LEAST}
    if not judged:
        return []
    z = statistics.NormalDist().inv_cdf(1 - ALPHA / len(judged))
    usual = statistics.median_low(tally.bound(-z) for tally in judged.values())
    median = statistics.median(tally.confirmed / tally.of for tally in judged.values())
    return [Suspect(t, judged[t], median, by) for t in sorted(judged) if judged[t].bound(z) < FAR * usual]


def fair(tenants: Sequence[str], share: float, least: int, most: int) -> list[int]:
    """Which items to keep, by their places in order; `tenants` has the tenant of each, the oldest item first. At most
    `most` are kept, and of a tenant at most `share` of those, or an equal part where there are fewer tenants than that
    takes. Where fewer than `least` would remain, the share grows until there are as many."""
    counts = Counter(tenants)
    share = max(share, 1 / max(1, len(counts)))

    def kept(cap: int) -> int:
        return sum(min(n, cap) for n in counts.values())

    total = next((n for n in range(min(most, len(tenants)), 0, -1) if kept(_whole(share * n)) >= n), 0)
    cap = _whole(share * total)
    if total < (enough := min(least, most, len(tenants))):
        total, cap = enough, next(cap for cap in range(1, enough + 1) if kept(cap) >= enough)
    taken, places = Counter[str](), list[int]()
    for place in reversed(range(len(tenants))):
        if len(places) < total and taken[tenants[place]] < cap:
            taken[tenants[place]] += 1
            places.append(place)
    return places[::-1]


def mark(tenant: str) -> str:
    """What a tenant is called in problems and bundles, which travel: a hash of its name. Whoever can guess the name can
    check it."""
    return f"tenant-{hashlib.sha256(tenant.encode()).hexdigest()[:12]}"


def _whole(number: float) -> int:
    return math.floor(number + 1e-9)  # a third of 3 is 1
