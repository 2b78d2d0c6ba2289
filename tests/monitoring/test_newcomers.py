"""New domains in natural traffic, simulated with questions of reasoning_gym and support requests. N1 two that appear at
once are two alerts, each of its own kind; N2 how many unknown requests are more than chance; N3 one that comes in
slowly is found, though no window has enough of it; N4 among traffic of several languages a further one is found, and
nothing where all of them are served; so is the language of a served domain's requests; N5 free text, in which hardly
any two requests are alike, is found as one domain, also beside a new pattern, and knows its further requests."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from fst.config import DriftParams
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.monitoring.alerts import Alert
from fst.monitoring.calibration import Thresholds
from fst.monitoring.newcomers import clusters
from fst.monitoring.signals import Reference
from fst.monitoring.watch import Watch, more_than_chance
from fst.serving.router import Router
from fst.traffic.log import Request

EXAMPLES = Path(__file__).parents[2] / "data" / "examples"
LOOK = 20  # requests between two looks
PARTS = {
    "english": (
        ["Hello, since yesterday", "I am writing because", "For a week now", "Unfortunately", "On my phone"],
        ["the invoice", "my password", "the delivery", "the app", "my subscription", "the refund"],
        ["does not work any more", "has not arrived", "was charged twice", "cannot be changed", "is wrong"],
        ["Can you help me?", "What should I do?", "Please call me back.", "Thank you!"],
    ),
    "german": (
        ["Guten Tag, seit gestern", "Ich schreibe, weil", "Seit einer Woche", "Leider", "Auf dem Telefon"],
        ["die Rechnung", "mein Passwort", "die Lieferung", "die App", "das Abonnement", "die Gutschrift"],
        ["nicht mehr geht", "nicht ankam", "doppelt berechnet wurde", "nicht zu ändern ist", "falsch ist"],
        ["Können Sie mir helfen?", "Was soll ich tun?", "Bitte rufen Sie an.", "Vielen Dank!"],
    ),
    "chinese": (
        ["你好从昨天起", "我写信是因为", "一个星期以来", "很遗憾", "在我的手机上"],
        ["发票", "我的密码", "快递", "应用程序", "我的订阅", "退款"],
        ["不能用了", "还没有到", "被收了两次费", "无法更改", "是错的"],
        ["您能帮助我吗", "我该怎么办", "请给我回电话", "谢谢"],
    ),
}


@cache
def pool(name: str) -> tuple[str, ...]:
    """Texts of a kind, in an order that is the same every time."""
    if (file := EXAMPLES / f"{name}.jsonl").exists():
        return tuple(json.loads(line)["question"] for line in file.read_text().splitlines())
    if name not in PARTS:
        return tuple(p.question for p in load_domain(f"reasoning_gym/{name}", SplitSizes(260, 1, 1), 0).train)
    texts = [""]
    for part in PARTS[name]:
        texts = [f"{text} {more}".strip() for text in texts for more in part]
    random.Random(name).shuffle(texts)
    return tuple(texts)


class Traffic:
    """Requests over served kinds, each known by its first 200 texts, and newcomers."""

    def __init__(self, *served: str, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.served, self.count = served, 0
        reference = Reference({}, {name: pool(name)[:200] for name in served})
        self.router = Router(reference.questions)
        params = DriftParams(cool_down_seconds=1e9)
        self.watch = Watch("c", "r", reference, Thresholds({}), params)

    def requests(self, count: int, shares: Mapping[str, float]) -> list[Request]:
        """`count` of them: shares of newcomers, and the served kinds for the rest, of texts that no reference has."""
        rest = (1 - sum(shares.values())) / len(self.served)
        mix = {**dict.fromkeys(self.served, rest), **shares}
        names = self.rng.choices(list(mix), list(mix.values()), k=count)
        return [self._request(name) for name in names]

    def look(self, requests: Sequence[Request]) -> list[Alert]:
        """What is found as they come in."""
        found = []
        for begin in range(0, len(requests), LOOK):
            found += self.watch.new_domains(requests[begin : begin + LOOK], float(self.count))
        return found

    def _request(self, name: str) -> Request:
        self.count += 1
        text = self.rng.choice(pool(name)[200 if name in self.served else 0 :])
        route = self.router.route(text)
        domain, routed = (route.domain, "router") if route.known else ("", "unknown")
        facts = ("r", "production", name, text, "a", (9, 6), 0.1, "stop", 200)
        return Request(f"i{self.count}", float(self.count), "t", domain, routed, route.novelty, *facts)  # type: ignore[arg-type]


def kinds(alerts: Sequence[Alert]) -> list[str]:
    """What each alert is about: the one kind that all its examples are of."""
    found = []
    for alert in alerts:
        (kind,) = {name for text in alert.examples for name in NEW if text in pool(name)}
        found.append(kind)
    return sorted(found)


NEW = ("leg_counting", "family_relationships")


def test_n1_two_at_once_are_two() -> None:
    traffic = Traffic("english", "calendar_arithmetic")
    alerts = traffic.look(traffic.requests(300, {"leg_counting": 0.15, "family_relationships": 0.15}))
    assert kinds(alerts) == ["family_relationships", "leg_counting"]
    assert len({alert.domain for alert in alerts}) == 2


def test_n2_more_than_chance() -> None:
    assert more_than_chance(100, 10) == 10
    limits = [more_than_chance(span, 1) for span in (100, 300, 1000)]
    assert limits == sorted(limits)
    assert limits[0] < 10 < limits[2]


def test_n3_one_that_comes_in_slowly() -> None:
    traffic = Traffic("english", "calendar_arithmetic")
    requests = traffic.requests(1000, {"leg_counting": 0.04})
    new = [r.question in pool("leg_counting") for r in requests]
    most = max(sum(new[i : i + 100]) for i in range(901))
    assert most < traffic.watch.params.new_domain_requests <= more_than_chance(1000, 10) <= sum(new)
    assert kinds(traffic.look(requests)) == ["leg_counting"]


def test_n4_mixed_languages() -> None:
    traffic = Traffic("english", "german")
    assert traffic.look(traffic.requests(300, {})) == []
    alerts = traffic.look(traffic.requests(300, {"chinese": 0.3}))
    assert 1 <= len(alerts) <= 2, "requests that all differ may be found in two parts"
    assert {text for alert in alerts for text in alert.examples} <= set(pool("chinese"))


def test_n4_another_language_of_a_served_domain() -> None:
    """It is a new domain: no prompt was measured on it."""
    traffic = Traffic("english", "calendar_arithmetic")
    alerts = traffic.look(traffic.requests(200, {"german": 0.2}))
    assert 1 <= len(alerts) <= 2
    assert {text for alert in alerts for text in alert.examples} <= set(pool("german"))


@pytest.mark.parametrize("name", ["orders", "tickets"])
def test_n5_free_text_is_one_domain(name: str) -> None:
    traffic = Traffic("calendar_arithmetic", "leg_counting")
    requests = traffic.requests(160, {name: 0.4})
    (alert,) = traffic.look(requests)
    assert set(alert.examples) <= set(pool(name))
    asked = {request.question for request in requests}
    further = [text for text in pool(name) if text not in asked]
    found = traffic.watch.newcomers[alert.domain].belongs(further)
    assert sum(found) >= 0.85 * len(found)


def test_n5_beside_a_pattern_both_are_found() -> None:
    traffic = Traffic("english", "calendar_arithmetic")
    alerts = traffic.look(traffic.requests(400, {"orders": 0.15, "leg_counting": 0.15}))
    found = [
        {name for text in alert.examples for name in ("orders", "leg_counting") if text in pool(name)}
        for alert in alerts
    ]
    assert sorted(map(sorted, found)) == [["leg_counting"], ["orders"]]


def test_n5_a_pattern_that_grows_is_not_left_over() -> None:
    patterns = [f"how many legs have {n} dogs and {n + 2} hens" for n in range(9)]
    patterns += [f"translate the word number {n} into french, please" for n in range(9)]
    assert clusters(patterns, 10) == []
    free = list(pool("tickets")[:10])
    assert clusters(free[:9], 10) == []
    assert clusters(free, 10) == [list(range(10))]
    assert clusters([*patterns[:5], *free[:9]], 10) == []  # the pattern makes up much of what is left over
    assert clusters([*patterns, *patterns, *free], 10) == [
        [*range(9), *range(18, 27)], [*range(9, 18), *range(27, 36)], [*range(36, 46)]
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_n5_free_text_that_is_served_is_no_new_domain(seed: int) -> None:
    traffic = Traffic("orders", "calendar_arithmetic", seed=seed)
    assert traffic.look(traffic.requests(1000, {"orders": 0.9})) == []
