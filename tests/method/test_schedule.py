"""The schedule, on problems that are nothing but their ids. The invariants are numbered in fst/method/schedule.py."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fst.config import params_from_dict
from fst.data.types import Problem
from fst.method.schedule import Schedule, draw_seed, schedule_for
from fst.types import Purpose

counts = st.integers(1, 12)
seeds = st.integers(0, 2**31)


def problems(count: int) -> tuple[Problem, ...]:
    return tuple(Problem(f"p{i}", "toy", "question", "answer") for i in range(count))


def ids(found: list[Problem]) -> list[str]:
    return [problem.id for problem in found]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    return Schedule(problems(draw(counts)), draw(counts), draw(counts), draw(counts))


def planned(seed: int) -> Schedule:
    sections = {"slow": {"problems_per_step": 3}, "loop": {"steps_per_cycle": 2}, "fast": {"anchors": 8}}
    return schedule_for(problems(8), params_from_dict(sections), seed)


def test_s1_the_orders_of_two_seeds() -> None:
    """Written down once: other orders would be other runs."""
    assert ids(list(planned(0).problems)) == ["p2", "p6", "p4", "p5", "p1", "p0", "p3", "p7"]
    assert ids(list(planned(3).problems)) == ["p6", "p1", "p5", "p7", "p2", "p0", "p3", "p4"]


@given(counts, seeds)
def test_s1_the_order_is_a_permutation(count: int, seed: int) -> None:
    found = schedule_for(problems(count), params_from_dict({}), seed)
    assert sorted(ids(list(found.problems))) == sorted(ids(list(problems(count))))
    assert (found.batch_size, found.steps_per_cycle, found.most_anchors) == (16, 6, 32)


@given(schedules(), counts)
def test_s2_batches_go_through_the_order_over_and_over(schedule: Schedule, steps: int) -> None:
    met = ids([problem for step in range(steps) for problem in schedule.batch(step)])
    passes = ids(list(schedule.problems)) * (steps * schedule.batch_size)
    assert met == passes[: steps * schedule.batch_size]


@given(schedules(), counts)
def test_s3_a_slow_round_has_the_batches_of_its_steps(schedule: Schedule, step: int) -> None:
    assert schedule.batches(step) == [schedule.batch(step + t) for t in range(schedule.steps_per_cycle)]


def test_s4_anchors_worked_out_by_hand() -> None:
    """Cycle 1 begins at step 2, with the seventh problem of the order; its second step is in the next pass."""
    assert [ids(batch) for batch in planned(0).batches(2)] == [["p3", "p7", "p2"], ["p6", "p4", "p5"]]
    assert ids(planned(0).anchors(1)) == ["p3", "p7", "p2", "p6", "p4", "p5"]
    assert ids(Schedule(problems(2), 3, 1, 9).anchors(0)) == ["p0", "p1"]
    assert ids(Schedule(problems(9), 3, 2, 4).anchors(1)) == ["p6", "p7", "p8", "p0"]


@given(schedules(), counts)
def test_s4_anchors_are_the_first_different_problems_of_the_slow_round(schedule: Schedule, cycle: int) -> None:
    batches = schedule.batches(cycle * schedule.steps_per_cycle)
    ahead = ids([problem for batch in batches for problem in batch])
    anchors = ids(schedule.anchors(cycle))
    assert anchors == sorted(set(anchors), key=ahead.index)
    assert len(anchors) == min(schedule.most_anchors, len(set(ahead)))
    assert set(ahead[: ahead.index(anchors[-1]) + 1]) == set(anchors)


def test_s5_the_seeds_of_one_run() -> None:
    """Written down once: other seeds would be other runs."""
    purposes: list[Purpose] = ["fast", "eval", "eval", "train"]
    found = [draw_seed(0, purpose, 0, at) for at, purpose in enumerate(purposes, 1)]
    assert found == [282230977547037797, 4433035710857603976, 1717304430104826593, 3313906741366634790]
    assert draw_seed(3, "eval", 2, 5) == 1995898390335954175


@given(seeds, st.integers(0, 50), counts)
def test_s5_another_draw_another_seed(seed: int, round_number: int, draw: int) -> None:
    one = draw_seed(seed, "eval", round_number, draw)
    others = {
        draw_seed(seed + 1, "eval", round_number, draw),
        draw_seed(seed, "fast", round_number, draw),
        draw_seed(seed, "eval", round_number + 1, draw),
        draw_seed(seed, "eval", round_number, draw + 1),
    }
    assert 0 <= one < 2**62
    assert len(others | {one}) == 5
    assert draw_seed(seed, "eval", round_number, draw) == one
