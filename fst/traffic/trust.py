"""Decides whose feedback to learn from. Pure: counts of tenants in, names of tenants out.

Feedback becomes training data, and everyone with a key can give it. A tenant becomes a suspect if its feedback
contradicts that of the others: a far smaller share of its answers is confirmed. Any check that true answers pass more
often than false ones can confirm an answer:

    release     by this answer, the served response is right (domain's verifier); only for questions like the others'
    others      the nearest question of another tenant has the same answer
    candidate   the adapted candidate gives this answer to the held-out problem; evaluated by the gate

Tenants are compared with each other, so evidence that confirms no answers makes no suspects: in a new domain a release
has no right answers, and only the candidate can tell. The rule cannot tell a tenant that lies from one whose task alone
has changed: both are left out and named, and a person decides. If most tenants lie, they are believed.

A tenant's rate is far below the others' if its upper bound is below FAR times the median of all tenants' lower bounds
(Wilson 1927, one-sided, ALPHA over the number of tenants). Tenants with fewer than LEAST answers are neither suspected
nor counted.

Invariants, each with a test: W1 fewer than half of the tenants are suspects, so never one of two; W2 neither names nor
order matter; W3 one more confirmed answer never makes its tenant a suspect; W4 tenants with equal rates are hardly ever
suspects; W5 a tenant that only lies is a suspect once it gave enough, that is 20, answers beside others of which 90%
are confirmed; W6 `fair` keeps the newest items, of no tenant more than its share, as many as this allows, and never
fewer than `least` if there are as many; W7 a single tenant keeps all its items."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ALPHA = 0.05
FAR = 0.5
LEAST = 8  # fewest answers to judge a tenant by


@dataclass(frozen=True)
class Tally:
    """The number of a tenant's answers for which there is evidence (`of`), and how many of them it confirms."""

    confirmed: int
    of: int

    @classmethod
    def count(cls, found: Iterable[tuple[str, bool]]) -> dict[str, Tally]:
        """Count the tallies of tenants from the (tenant, confirmed) pairs of single answers."""
        answers = list(found)
        of, confirmed = Counter(tenant for tenant, _ in answers), Counter(tenant for tenant, yes in answers if yes)
        return {tenant: cls(confirmed[tenant], n) for tenant, n in of.items()}

    def bound(self, z: float) -> float:
        """Wilson's bound on the rate: the upper one for z > 0, the lower one for z < 0."""
        n, rate = self.of, self.confirmed / self.of
        spread = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        return min(1.0, max(0.0, (rate + z * z / (2 * n) + spread) / (1 + z * z / n)))


@dataclass(frozen=True)
class Suspect:
    """A tenant whose feedback contradicts the others', with its tally and the median rate of all tenants; `by` says
    what confirms answers."""

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
    """Find the tenants to leave out, sorted by name; `by` describes what confirms an answer."""
    judged = {tenant: tally for tenant, tally in tallies.items() if tally.of >= LEAST}
    if not judged:
        return []
    z = statistics.NormalDist().inv_cdf(1 - ALPHA / len(judged))
    usual = statistics.median_low(tally.bound(-z) for tally in judged.values())
    median = statistics.median(tally.confirmed / tally.of for tally in judged.values())
    return [Suspect(t, judged[t], median, by) for t in sorted(judged) if judged[t].bound(z) < FAR * usual]


def fair(tenants: Sequence[str], share: float, least: int, most: int) -> list[int]:
    """Choose the items to keep; returns their indices in order. `tenants` has the tenant of each item, the oldest
    first. At most `most` are kept, and of each tenant at most a share `share` of those, or an equal part if there are
    too few tenants for that. If fewer than `least` would remain, the share grows until there are as many."""
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
    """Return the pseudonym of a tenant in problems and bundles, which are passed on: a hash of its name. Anyone who can
    guess the name can check it."""
    return f"tenant-{hashlib.sha256(tenant.encode()).hexdigest()[:12]}"


def _whole(number: float) -> int:
    return math.floor(number + 1e-9)  # a third of 3 is 1
