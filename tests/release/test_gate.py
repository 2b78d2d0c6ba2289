"""The gate. G1 better, worse and tied are told apart by the interval; G2 a tie follows gate.tie; G3 each rule refuses
just beyond its limit and passes at it; G4 a domain that production serves must be covered; G5 a new domain is compared
with production's answer to it and cannot be forgotten; G6 no production: forgetting and cost are not judged; G7 the
bootstrap is paired, stratified and deterministic; G8 the decision holds every figure and every reason; G9 a tenant that
only lies is named, and neither stops a release nor passes one, nor counts against adapt.enough."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.config import GateParams, Params, params_from_dict
from fst.release.gate import Case, Decision, bootstrap, decide, trusted

LIMITS = GateParams(resamples=500, max_prompt_tokens=64)
SETTLED = 0.3 + 0.4 * (np.arange(200) % 2)  # a policy's mean reward on 200 problems


def entry(rewards: Any, **values: float) -> dict[str, Any]:
    facts = {"kl": 0.1, "prompt_tokens": 10, "tokens_per_answer": 30.0, **values}
    return {"problems": {f"p{i}": float(r) for i, r in enumerate(rewards)}, "reward": float(np.mean(rewards)), **facts}


def case(change: float = 0.0, served: bool = True, domain: str = "a", **values: float) -> Case:
    return Case(domain, entry(SETTLED + change, **values), entry(SETTLED), served)


def judged(*cases: Case, limits: GateParams = LIMITS) -> Decision:
    return decide("new", "old", cases, limits)


def failed(decision: Decision) -> set[tuple[str, str]]:
    return {(finding.rule, finding.domain) for finding in decision.findings if not finding.passed}


def noisy(mean: float, spread: float = 0.4) -> Any:
    """Rewards whose differences from SETTLED have this mean exactly, and a spread that hides a small one."""
    noise = np.where(np.arange(200) % 4 < 2, spread, -spread)
    return SETTLED + noise + mean


def test_g1_a_clear_gain_releases_and_a_clear_loss_is_refused() -> None:
    assert judged(case(+0.02)).verdict == "release"
    worse = judged(case(-0.02))
    assert worse.verdict == "refuse"
    assert failed(worse) == {("reward", "")}
    assert worse.intervals[""].high == pytest.approx(-0.02)
    assert "lower than production's: -0.020" in worse.reasons[0]


def test_g1_a_difference_within_the_noise_is_a_tie() -> None:
    tied = judged(Case("a", entry(noisy(-0.01)), entry(SETTLED), True))
    assert tied.intervals[""].low < 0 < tied.intervals[""].high
    assert "ties with production's" in tied.reasons[0]


@pytest.mark.parametrize(("tie", "verdict"), [("keep", "refuse"), ("replace", "release")])
def test_g2_a_tie_follows_the_parameter(tie: Any, verdict: str) -> None:
    assert judged(case(0.0), limits=LIMITS.replace(tie=tie)).verdict == verdict


@pytest.mark.parametrize(
    ("rule", "at", "beyond"),
    [
        ("kl", {"kl": 2.0}, {"kl": 2.001}),
        ("prompt", {"prompt_tokens": 64}, {"prompt_tokens": 65}),
        ("cost", {"tokens_per_answer": 40.0}, {"tokens_per_answer": 40.1}),
    ],
)
def test_g3_a_limit_is_the_last_value_that_passes(rule: str, at: dict[str, float], beyond: dict[str, float]) -> None:
    assert judged(case(+0.1, **at)).verdict == "release"
    refused = judged(case(+0.1, **beyond))
    assert failed(refused) == {(rule, "a")}
    assert "over by" in refused.reasons[0]


def test_g3_a_longer_prompt_is_no_cost() -> None:
    """It has a rule of its own: 54 tokens more of it, and answers as before."""
    assert judged(case(+0.1, prompt_tokens=64, tokens_per_answer=84.0)).verdict == "release"
    refused = judged(case(+0.1, prompt_tokens=64, tokens_per_answer=94.1))
    assert failed(refused) == {("cost", "a")}
    assert refused.reasons[0].startswith("a: 1.50 of production's tokens an answer, prompts aside, over by 0.005")


def test_g3_limits_that_are_not_set_follow_from_training() -> None:
    """A prompt may be as long as any domain's training makes one, and a limit that is set holds."""
    assert Params().gate_limits == GateParams(max_prompt_tokens=64)
    longer = {"fast": {"max_prompt_tokens": 256}, "domains": {"a": {}, "b": {"set": ["fast.max_prompt_tokens=300"]}}}
    assert params_from_dict(longer).gate_limits.max_prompt_tokens == 300
    assert params_from_dict({**longer, "gate": {"max_prompt_tokens": 128}}).gate_limits.max_prompt_tokens == 128


def test_g3_forgetting_is_judged_by_domain_even_when_the_whole_gains() -> None:
    limits = LIMITS.replace(max_forgetting=0.0625)
    gain = case(+0.5, served=False, domain="new")
    assert judged(case(-0.0625), gain, limits=limits).verdict == "release"
    refused = judged(case(-0.125), gain, limits=limits)
    assert failed(refused) == {("forgetting", "a")}
    assert "lost 0.125" in refused.reasons[0]
    assert "over by 0.0625" in refused.reasons[0]


@pytest.mark.parametrize(
    "missing",
    [
        Case("b", None, entry(SETTLED), True),
        Case("b", entry(SETTLED + 0.1), None, True),
        Case("b", entry([0.0]) | {"problems": {"other": 1.0}}, entry(SETTLED), True),
    ],
    ids=["the-candidate-dropped-it", "its-problems-are-gone", "no-common-problem"],
)
def test_g4_an_earlier_domain_that_cannot_be_compared_refuses(missing: Case) -> None:
    decision = judged(case(+0.1), missing)
    assert decision.verdict == "refuse"
    assert ("coverage", "b") in failed(decision)


def test_g5_a_new_domain_counts_in_the_reward_alone() -> None:
    decision = judged(case(0.0), case(+0.3, served=False, domain="new"))
    assert decision.verdict == "release"
    assert decision.intervals[""].mean == pytest.approx(0.15)
    assert {f.rule for f in decision.findings if f.domain == "new"} == {"kl", "prompt"}


def test_g6_without_production_the_base_is_the_measure() -> None:
    decision = decide("new", None, [case(+0.3, served=False)], LIMITS)
    assert decision.verdict == "release"
    assert decision.production is None
    assert {f.rule for f in decision.findings} == {"reward", "kl", "prompt"}
    assert decide("new", None, [case(-0.3, served=False)], LIMITS).verdict == "refuse"


def test_g7_the_interval_is_that_of_paired_differences() -> None:
    """Problems differ by 0.4 from each other, the two sides by 0.02 on each: only pairing can see it."""
    interval = bootstrap([case(+0.02)], LIMITS)["a"]
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.02, 0.02, 0.02))
    unlike = bootstrap([Case("a", entry(noisy(0.0)), entry(SETTLED), True)], LIMITS)["a"]
    assert 0.7 * 0.4 * 1.96 / 200**0.5 < unlike.high < 1.3 * 0.4 * 1.96 / 200**0.5


def test_g7_domains_weigh_the_same_however_many_problems_they_have() -> None:
    small = Case("b", entry(SETTLED[:10] + 0.3), entry(SETTLED[:10]), True)
    assert bootstrap([case(0.1), small], LIMITS)[""].mean == pytest.approx(0.2)


@settings(deadline=None, max_examples=60)
@given(
    rewards=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40),
    seed=st.integers(0, 2**31),
)
def test_g7_any_rewards_give_an_ordered_interval_and_the_same_again(
    rewards: list[tuple[float, float]], seed: int
) -> None:
    ours, theirs = zip(*rewards, strict=True)
    limits = GateParams(resamples=100, seed=seed)
    one = Case("a", entry(ours), entry(theirs), True)
    found = bootstrap([one], limits)
    assert found == bootstrap([one], limits)
    assert found["a"].low <= found["a"].high
    assert found["a"].low >= -1
    assert found["a"].high <= 1
    assert found["a"].mean == pytest.approx(np.mean(np.subtract(ours, theirs)), abs=1e-6)
    turned = bootstrap([Case("a", entry(theirs), entry(ours), True)], limits)["a"]
    assert turned.mean == pytest.approx(-found["a"].mean, abs=1e-6)


def test_g8_the_decision_is_complete_and_json() -> None:
    decision = judged(case(-0.2, kl=3.0, prompt_tokens=100, tokens_per_answer=150.0))
    assert failed(decision) == {("reward", ""), ("kl", "a"), ("prompt", "a"), ("forgetting", "a"), ("cost", "a")}
    assert len(decision.reasons) == 5
    values = json.loads(json.dumps(decision.as_dict()))
    assert (values["candidate"], values["production"], values["verdict"]) == ("new", "old", "refuse")
    assert values["limits"]["max_kl"] == 2.0
    assert values["intervals"]["a"]["mean"] == pytest.approx(-0.2)


def poisoned(rewards: Any, lies: range) -> dict[str, Any]:
    """An entry whose problems come from four tenants in turn, but for those of the liar."""
    found = entry(rewards)
    tellers = {key: "tenant-liar" if i in lies else f"tenant-{i % 4}" for i, key in enumerate(found["problems"])}
    held_out = {t: {"problems": 300, "held_out": [k for k, v in tellers.items() if v == t]} for t in tellers.values()}
    return {**found, "tenants": held_out}


def test_g9_a_tenant_that_only_lies_neither_stops_a_release_nor_passes_one() -> None:
    """It told a third of the held-out problems, and production answers them as it says: with them, the gain on the
    others would be lost."""
    lies = range(0, 200, 3)
    lied = np.array([i in lies for i in range(200)])
    truth = np.where(np.arange(200) % 10 < 9, 1.0, 0.0)
    learned, before = np.where(lied, 0.0, truth), np.where(lied, 1.0, np.maximum(0.0, truth - 0.3))
    decision = judged(Case("a", poisoned(learned, lies), entry(before), True))
    assert decision.verdict == "release"
    assert decision.intervals[""].mean == pytest.approx(0.3 * truth[~lied].mean(), abs=1e-5)
    (finding,) = [finding for finding in decision.findings if finding.rule == "feedback"]
    assert (finding.passed, finding.value, finding.limit) == (True, 0.0, pytest.approx(0.43, abs=0.03))
    assert finding.sentence.startswith("a: the feedback of tenant-liar contradicts the others': 0 of 67 answers are ")
    assert judged(Case("a", entry(learned), entry(before), True)).verdict == "refuse", "with it, the gain is lost"
    assert trusted(poisoned(learned, lies)) == pytest.approx(truth[~lied].mean(), abs=1e-5)
    assert trusted(entry(learned)) == pytest.approx(learned.mean(), abs=1e-5), "nobody is named"


def test_g9_nobody_is_named_where_nobody_differs() -> None:
    for rewards in (np.ones(200), np.zeros(200), np.full(200, 0.4)):
        decision = judged(Case("a", poisoned(rewards, range(0, 200, 3)), entry(SETTLED - 0.1), True))
        assert [finding for finding in decision.findings if finding.rule == "feedback"] == []
        assert decision == judged(Case("a", entry(rewards), entry(SETTLED - 0.1), True))
