"""`fst bench drift`: how often the watcher cries wolf, and how soon it sees a wolf. Traffic of the lab is simulated
(questions of its domains, rewards drawn at the reference's mean, lengths as answers have them), so no model is
needed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import beta

from fst.config import DriftParams
from fst.data.domains import load_domain
from fst.data.types import Problem, SplitSizes
from fst.monitoring.calibration import calibrate
from fst.monitoring.signals import reference_of
from fst.monitoring.watch import Watch
from fst.serving.router import Router
from fst.traffic.log import Exchange, Feedback, Request

SERVED = {"digits": "lab/sort_desc+add_one"}
TWO = {**SERVED, "letters": "lab/letters:reverse"}
NEWCOMERS = {"lab/letters:reverse": SERVED, "star_graph": TWO, "reasoning_gym/leg_counting": TWO}
REWARD, SEEDS, ROWS = 0.97, 5, 200
WITHIN = 3  # windows


class Simulated:
    """Windows of traffic over domains, with fresh questions that no reference saw."""

    def __init__(self, served: Mapping[str, str], params: DriftParams, seed: int) -> None:
        self.rng = random.Random(f"traffic {seed}")
        self.pools = {name: self._fresh(spec, seed) for name, spec in served.items()}
        rows = {name: {"rows": self._reference(spec)} for name, spec in served.items()}
        reference = reference_of(rows)
        self.router = Router(reference.questions)
        self.watch = Watch("bench", "0" * 64, reference, calibrate(reference, params), params)
        self.params, self.count = params, 0

    def window(self, mix: Mapping[str, float], rewards: Mapping[str, float]) -> list[Exchange]:
        """Requests in a mix of pools; all are scored."""
        names = self.rng.choices(list(mix), list(mix.values()), k=self.params.window)
        return [self._exchange(self.rng.choice(self.pools[name]), rewards.get(name, REWARD)) for name in names]

    def alerts(self, window: Sequence[Exchange]) -> list[str]:
        """Kinds of the alerts that a window raises; cool-downs are not waited for."""
        self.watch.quiet_until.clear()
        found = self.watch.new_domains([exchange.request for exchange in window], self.count)
        _, raised = self.watch.judge(window, self.count)
        return [alert.kind for alert in (*found, *raised)]

    def _exchange(self, problem: Problem, reward: float) -> Exchange:
        self.count += 1
        route, key = self.router.route(problem.question), f"r{self.count}"
        domain, routed = (route.domain, "router") if route.known else ("", "unknown")
        tokens = len(problem.answer.split()) + 1
        request = Request(
            key, float(self.count), "t", domain, routed, route.novelty, "0" * 64, "production", "p",  # type: ignore[arg-type]
            problem.question, problem.answer, (20, tokens), 0.01, "stop", 200,
        )  # fmt: skip
        given = float(self.rng.random() < reward) if domain else 0.0
        return Exchange(request, Feedback(key, 0.0, "t", given, None, "", "client"))

    def _reference(self, spec: str) -> list[dict[str, Any]]:
        """What a release's own validation traffic is: 200 held-out questions, four answers each."""
        problems = load_domain(spec, SplitSizes(1, ROWS, 1), 0).validation
        return [
            {
                "question": p.question,
                "response": p.answer,
                "reward": float(self.rng.random() < REWARD),
                "tokens": len(p.answer.split()) + 1,
            }
            for p in problems
            for _ in range(4)
        ]

    @staticmethod
    def _fresh(spec: str, seed: int) -> tuple[Problem, ...]:
        return load_domain(spec, SplitSizes(1500, 1, 1), seed + 1).train


def drift_table(params: DriftParams, windows: int, trials: int) -> Iterator[str]:
    """Lines of the three measurements."""
    for served in (SERVED, TWO):
        wrong = judged = 0
        for seed in range(SEEDS):
            traffic = Simulated(served, params, seed)
            for _ in range(windows // SEEDS):
                window = traffic.window(dict.fromkeys(served, 1.0), {})
                wrong += bool(traffic.alerts(window))
                judged += 1
        yield (
            f"no drift, {', '.join(served)}: {wrong} of {judged} windows of {params.window} raised an alert "
            f"({_share(wrong, judged)}; target: at most 1%)"
        )
    for newcomer, served in NEWCOMERS.items():
        found = sum(_detected(newcomer, served, params, trial) for trial in range(trials))
        yield (
            f"new domain {newcomer} at 20% beside {', '.join(served)}: found within {WITHIN} windows in {found} of "
            f"{trials} trials ({_share(found, trials)}; target: at least 95%)"
        )
    waits = [_windows_to_drift(params, trial) for trial in range(trials)]
    inside = sum(wait is not None and wait <= WITHIN for wait in waits)
    yield (
        f"reward of digits falls by 20 points: alert within {WITHIN} windows in {inside} of {trials} trials "
        f"({_share(inside, trials)})"
    )


def _detected(spec: str, served: Mapping[str, str], params: DriftParams, trial: int) -> bool:
    traffic = Simulated(served, params, 100 + trial)
    traffic.pools["new"] = traffic._fresh(spec, 100 + trial)
    mix = {**dict.fromkeys(served, 0.8 / len(served)), "new": 0.2}
    return any("new_domain" in traffic.alerts(traffic.window(mix, {})) for _ in range(WITHIN))


def _windows_to_drift(params: DriftParams, trial: int) -> int | None:
    traffic = Simulated(SERVED, params, 200 + trial)
    for number in range(1, 11):
        if "drifted" in traffic.alerts(traffic.window({"digits": 1.0}, {"digits": REWARD - 0.2})):
            return number
    return None


def _share(count: int, of: int) -> str:
    """A share with its 95% interval (Clopper and Pearson)."""
    low = beta.ppf(0.025, count, of - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    return f"{count / of:.1%} [{low:.1%}, {high:.1%}]"
