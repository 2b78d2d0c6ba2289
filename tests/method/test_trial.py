"""A proposal's trial: invariants T1 to T5 of fst/method/fast/trial.py, and what it does to proposals of known
quality."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.bench.proposals import fate
from fst.config import FastParams
from fst.method.fast.trial import CONFIDENCE, PART, gains, hopeless, parts, tied

GAINS = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60)


@given(st.integers(1, 500))
def test_t1_the_parts_are_the_anchors_in_order_and_none_is_short(anchors: int) -> None:
    found = [list(range(anchors))[part] for part in parts(anchors)]
    assert [i for part in found for i in part] == list(range(anchors))
    assert min(map(len, found)) >= min(PART, anchors)
    assert max(map(len, found)) < 2 * PART


def test_t1_as_many_anchors_as_the_lab_has_are_one_part() -> None:
    assert [part.stop for part in parts(32)] == [32]
    assert [part.stop for part in parts(63)] == [63]
    assert [part.stop for part in parts(130)] == [32, 64, 96, 130]


@pytest.mark.parametrize(
    ("one", "other", "tie", "same"),
    [
        (0.071, 0.072, 0.1, True),
        (0.072, 0.071, 0.1, True),
        (0.071, 0.072, 0.0, False),
        (0.9, 1.0, 0.1, True),
        (0.85, 1.0, 0.1, False),
        (0.0, 0.001, 0.9, False),
        (0.0, 0.0, 0.0, True),
    ],
)
def test_t2_what_ties(one: float, other: float, tie: float, same: bool) -> None:
    assert tied(one, other, tie) is same


@given(st.lists(st.tuples(st.booleans(), st.booleans())), st.floats(0, 0.9))
def test_t2_binary_rewards_are_as_they_are_whatever_the_tie(pairs: list[tuple[bool, bool]], tie: float) -> None:
    before, after = [float(old) for old, _ in pairs], [float(new) for _, new in pairs]
    assert gains(before, after, tie) == [b - a for a, b in zip(before, after, strict=True)]


@given(GAINS, st.integers(0, 300))
def test_t3_who_is_not_behind_or_is_done_goes_on(gained: list[float], left: int) -> None:
    if sum(gained) >= 0 or not left:
        assert not hopeless(gained, left)


@given(GAINS, st.integers(1, 300), st.integers(1, 300))
def test_t4_the_fewer_are_left_the_more_are_given_up(gained: list[float], one: int, other: int) -> None:
    assert hopeless(gained, min(one, other)) or not hopeless(gained, max(one, other))


@given(GAINS, st.integers(0, 300), st.sampled_from([0.25, 0.5, 2.0]))
def test_t5_the_scale_of_rewards_does_not_matter(gained: list[float], left: int, scale: float) -> None:
    assert hopeless([gain * scale for gain in gained], left) == hopeless(gained, left)


def test_by_hand() -> None:
    """Eight of 32 problems lost and none won: 32 more, of variance 8, make up 1.28 x 2.8 = 3.6 with 10% probability."""
    assert hopeless([-1.0] * 8 + [0.0] * 24, 32)
    assert not hopeless([-1.0] + [0.0] * 31, 32)
    assert not hopeless([-1.0] * 8 + [1.0] * 4 + [0.0] * 20, 64), "4 behind, and 64 x 12/32 is a deviation of 4.9"


def test_who_is_given_up_would_have_ended_below_its_parent_as_often_as_stated() -> None:
    """Prompts as good as their parents, at the first look of 130 anchors."""
    rng, given_up, below = random.Random(0), 0, 0
    for _ in range(4000):
        gained = [float(rng.random() < 0.5) - float(rng.random() < 0.5) for _ in range(130)]
        if hopeless(gained[:32], 98):
            given_up += 1
            below += sum(gained) < 0
    assert given_up > 20
    assert below / given_up > CONFIDENCE


@pytest.mark.parametrize("anchors", [130, 192])
def test_equal_and_worse_proposals_cost_less_and_better_ones_are_scored_as_before(anchors: int) -> None:
    params = FastParams(anchors=192, minibatch=8, budget=960)
    worst, worse, equal, better = (fate(points, anchors, params, 400) for points in (-0.3, -0.1, 0.0, 0.1))
    assert 0.5 < equal.passed < 0.7
    assert better.whole > 0.97 * better.passed
    assert worst.whole < 0.2 * worst.passed
    assert worse.whole < 0.7 * worse.passed
    assert worst.rollouts < worse.rollouts < equal.rollouts < better.rollouts
    assert worst.rollouts - 16 < 0.6 * (worst.rollouts_before - 16)
    assert equal.rollouts < 0.95 * equal.rollouts_before


def test_with_the_labs_anchors_none_is_given_up() -> None:
    found = fate(-0.3, 32, FastParams(), 200)
    assert (found.whole, found.rollouts) == (found.passed, found.rollouts_before)
