"""Whose feedback is learned from: the invariants W1 to W7 of fst/traffic/trust.py."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.traffic.trust import LEAST, Tally, fair, mark, suspects

TALLIES = st.dictionaries(
    st.sampled_from("abcdefghij"),
    st.integers(1, 60).flatmap(lambda n: st.builds(Tally, st.integers(0, n), st.just(n))),
    max_size=8,
)


def named(tallies: dict[str, Tally]) -> set[str]:
    return {suspect.tenant for suspect in suspects(tallies, "it")}


@given(TALLIES)
@settings(max_examples=100, deadline=None)
def test_w1_fewer_than_half_are_named(tallies: dict[str, Tally]) -> None:
    judged = {tenant for tenant, tally in tallies.items() if tally.of >= LEAST}
    found = named(tallies)
    assert found <= judged
    assert 2 * len(found) < max(1, len(judged))
    assert len(judged) > 2 or not found


@given(TALLIES, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_w2_neither_names_nor_order_matter(tallies: dict[str, Tally], rng: random.Random) -> None:
    new = dict(zip(tallies, rng.sample(range(100), len(tallies)), strict=True))
    shuffled = {f"t{new[tenant]}": tallies[tenant] for tenant in rng.sample(sorted(tallies), len(tallies))}
    assert named(shuffled) == {f"t{new[tenant]}" for tenant in named(tallies)}


@given(TALLIES, st.sampled_from("abcdefghij"))
@settings(max_examples=100, deadline=None)
def test_w3_one_more_confirmed_answer_never_gets_its_tenant_named(tallies: dict[str, Tally], tenant: str) -> None:
    tally = tallies.get(tenant, Tally(0, LEAST))
    tallies[tenant] = tally
    if tally.of >= LEAST and tenant not in named(tallies):
        assert tenant not in named({**tallies, tenant: Tally(tally.confirmed + 1, tally.of + 1)})


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_w4_tenants_of_one_rate_are_hardly_ever_named(rate: float) -> None:
    """Of 2,000 tenants, in groups of 3 to 9 with 8 to 60 answers each, none; so its probability is below 0.2%."""
    rng, seen, found = random.Random(f"rate {rate}"), 0, 0
    while seen < 2000:
        sizes = [rng.randint(8, 60) for _ in range(rng.randint(3, 9))]
        found += len(named({str(i): Tally(sum(rng.random() < rate for _ in range(n)), n) for i, n in enumerate(sizes)}))
        seen += len(sizes)
    assert found == 0


@pytest.mark.parametrize(
    ("rate", "honest", "lies", "expected"),
    [(1.0, 20, 12, True), (0.9, 20, 20, True), (0.9, 20, 7, False), (0.5, 40, 40, True), (0.5, 20, 20, False),
     (0.2, 60, 60, False), (0.0, 60, 60, False)],
)  # fmt: skip
def test_w5_what_it_takes_to_be_named(rate: float, honest: int, lies: int, expected: bool) -> None:
    """The weaker the evidence, the more answers; where it confirms nobody, nobody is named."""
    others = {name: Tally(round(rate * honest), honest) for name in "abcd"}
    assert named({**others, "liar": Tally(0, lies)}) == ({"liar"} if expected else set())


def test_w5_two_that_lie_are_named_beside_three_and_the_sentence_says_why() -> None:
    tallies = {**{name: Tally(29, 30) for name in "abc"}, "x": Tally(1, 30), "y": Tally(0, 30)}
    assert named(tallies) == {"x", "y"}
    assert suspects(tallies, "the served responses")[0].sentence == (
        "the feedback of x contradicts the others': 1 of 30 answers are confirmed by the served responses, "
        "97% in the median of all tenants"
    )
    assert named({**tallies, "z": Tally(0, 30)}) == set(), "as many lie as do not: nobody can say who"


TENANTS = st.lists(st.sampled_from("aaaabbc"), max_size=60)


@given(TENANTS, st.sampled_from([0.1, 0.3, 0.5, 1.0]), st.integers(0, 20), st.integers(1, 70))
@settings(max_examples=100, deadline=None)
def test_w6_a_share_of_each(tenants: list[str], share: float, least: int, most: int) -> None:
    kept = fair(tenants, share, least, most)
    assert kept == sorted(set(kept))
    assert min(least, most, len(tenants)) <= len(kept) <= most
    counts, all_of = Counter(tenants[i] for i in kept), Counter(tenants)
    allowed = max(share, 1 / max(1, len(all_of)))
    if len(kept) > least:
        assert all(n <= allowed * len(kept) + 1e-6 for n in counts.values())
    for tenant, n in counts.items():
        mine = [i for i, one in enumerate(tenants) if one == tenant]
        assert [i for i in kept if tenants[i] == tenant] == mine[-n:], "the newest"
    for more in range(len(kept) + 1, min(most, len(tenants)) + 1):
        assert sum(min(n, int(allowed * more + 1e-9)) for n in all_of.values()) < more, "no more were allowed"


@given(st.integers(0, 50), st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 60))
def test_w7_one_tenant_alone_is_kept_whole(n: int, share: float, most: int) -> None:
    assert fair(["a"] * n, share, 0, most) == list(range(max(0, n - most), n))


def test_w6_one_that_floods_gets_its_share_and_no_adaptation_waits_for_others() -> None:
    tenants = ["flood"] * 300 + ["a"] * 40 + ["b"] * 40
    assert Counter(tenants[i] for i in fair(tenants, 0.5, 96, 400)) == {"flood": 80, "a": 40, "b": 40}
    late = ["flood"] * 300 + ["a"] * 2
    assert Counter(late[i] for i in fair(late, 0.5, 96, 400)) == {"flood": 94, "a": 2}


def test_a_mark_is_the_same_for_the_same_tenant_and_does_not_hold_its_name() -> None:
    assert mark("alice") == mark("alice") == "tenant-2bd806c97f0e"
    assert mark("alice") != mark("alicf")
