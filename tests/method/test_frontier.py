"""The Pareto frontier: invariants F1 to F7 of fst/method/fast/frontier.py on random score matrices, and a case by
hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.method.fast.frontier import deal, frontier, greedy_cover, mean_score

Matrix = dict[str, dict[str, float]]

# By hand: "a" and "b" halve the problems p1-p4, "c" is second best everywhere, p5 nobody solves.
HAND: Matrix = {
    "c": {"p1": 0.5, "p2": 0.5, "p3": 0.5, "p4": 0.5, "p5": 0.0},
    "b": {"p1": 0.0, "p2": 0.0, "p3": 1.0, "p4": 1.0, "p5": 0.0},
    "a": {"p1": 1.0, "p2": 1.0, "p3": 0.0, "p4": 0.5, "p5": 0.0},
}


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """Up to 7 prompts on up to 8 problems; few distinct rewards, so that ties are common."""
    prompts, problems = draw(st.integers(1, 7)), draw(st.integers(1, 8))
    reward = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    return {f"m{i}": {f"p{j}": draw(reward) for j in range(problems)} for i in range(prompts)}


def by_mean(scores: Matrix) -> list[str]:
    return sorted(scores, key=lambda name: -mean_score(scores[name]))  # a stable sort keeps the given order in ties


def winners(scores: Matrix, problem: str) -> set[str]:
    best = max(row[problem] for row in scores.values())
    return {name for name, row in scores.items() if row[problem] == best} if best > 0 else set()


def test_hand_frontier_names_the_best_of_each_problem_and_leaves_out_the_unsolved() -> None:
    assert frontier(HAND) == {"p1": {"a"}, "p2": {"a"}, "p3": {"b"}, "p4": {"b"}}
    assert {name: mean_score(row) for name, row in HAND.items()} == {"c": 0.4, "b": 0.4, "a": 0.5}


@pytest.mark.parametrize(("k", "cover"), [(1, ["a"]), (2, ["a", "b"]), (5, ["a", "b"])])
def test_hand_cover_takes_the_complement_and_never_the_all_round_second(k: int, cover: list[str]) -> None:
    assert greedy_cover(HAND, k) == cover


def test_hand_cover_of_prompts_that_solve_nothing_is_the_first_alone() -> None:
    assert greedy_cover({"x": {"p": 0.0}, "y": {"p": 0.0}}, 4) == ["x"]
    assert greedy_cover({"x": {}}, 2) == ["x"]


def test_cover_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one scored prompt"):
        greedy_cover({}, 3)


@given(matrices(), st.integers(1, 9))
def test_f1_f3_a_cover_has_between_one_and_k_distinct_members(scores: Matrix, k: int) -> None:
    cover = greedy_cover(scores, k)
    assert 1 <= len(cover) <= k
    assert len(set(cover)) == len(cover)
    assert set(cover) <= set(scores)


@given(matrices(), st.integers(1, 9))
def test_f2_the_first_member_has_the_best_mean_and_the_earliest_place_among_equals(scores: Matrix, k: int) -> None:
    assert greedy_cover(scores, k)[0] == by_mean(scores)[0]


@given(matrices(), st.integers(1, 9))
def test_f4_each_next_member_wins_most_of_what_its_layer_leaves_ties_by_mean_then_order(scores: Matrix, k: int) -> None:
    cover, ranking = greedy_cover(scores, k), by_mean(scores)
    wins = {problem: winners(scores, problem) for problem in next(iter(scores.values()))}
    everything = {problem for problem, best in wins.items() if best}
    left = {problem for problem in everything if cover[0] not in wins[problem]}
    for place, member in enumerate(cover[1:], 1):
        rest = [name for name in ranking if name not in cover[:place]]
        gains = {name: sum(name in wins[problem] for problem in left) for name in rest}
        if not max(gains.values()):
            left = everything
            gains = {name: sum(name in wins[problem] for problem in left) for name in rest}
        most = max(gains.values())
        assert most > 0
        assert member == next(name for name in rest if gains[name] == most)
        left = {problem for problem in left if member not in wins[problem]}
    if len(cover) < k:
        on_frontier = {name for names in wins.values() for name in names}
        assert on_frontier <= set(cover), "a place was left empty although the frontier has more"


@given(matrices(), st.integers(1, 9), st.data())
def test_f5_f6_a_prompt_that_wins_nothing_changes_nothing(scores: Matrix, k: int, data: st.DataObject) -> None:
    above = data.draw(st.sampled_from(sorted(scores)))
    more = {**scores, "dominated": {problem: reward / 2 for problem, reward in scores[above].items()}}
    tie = data.draw(st.sampled_from([0.0, 0.1, 0.4]))
    assert frontier(more, tie) == frontier(scores, tie)
    assert greedy_cover(more, k, tie) == greedy_cover(scores, k, tie)


def test_by_hand_a_second_layer_is_of_the_frontier_alone() -> None:
    alike = {"a": {"p": 1.0, "q": 0.0}, "b": {"p": 1.0, "q": 0.0}, "c": {"p": 0.5, "q": 0.0}, "d": {"p": 1.0, "q": 0.0}}
    assert greedy_cover(alike, 1) == ["a"]
    assert greedy_cover(alike, 4) == ["a", "b", "d"]


@given(matrices())
def test_the_frontier_is_the_definition(scores: Matrix) -> None:
    expected = {problem: winners(scores, problem) for problem in next(iter(scores.values()))}
    assert frontier(scores) == {problem: names for problem, names in expected.items() if names}


@given(matrices(), st.floats(0, 0.9), st.floats(0, 0.9))
def test_f7_a_larger_tie_only_adds_winners(scores: Matrix, one: float, other: float) -> None:
    smaller, larger = frontier(scores, min(one, other)), frontier(scores, max(one, other))
    assert all(smaller[problem] <= larger[problem] for problem in larger)
    assert smaller.keys() == larger.keys() == frontier(scores).keys()


@given(matrices(), st.floats(0, 0.9), st.integers(1, 9))
def test_f7_rewards_of_0_and_1_never_tie(scores: Matrix, tie: float, k: int) -> None:
    binary = {name: {problem: float(reward > 0.4) for problem, reward in row.items()} for name, row in scores.items()}
    assert frontier(binary, tie) == frontier(binary)
    assert greedy_cover(binary, k, tie) == greedy_cover(binary, k)


def test_f7_by_hand_noise_of_a_hundredth_wins_nothing() -> None:
    """`b` solves p3 alone. Of p1 and p2, `a` and `b` are equally good, and `c` has no place that is its own."""
    noisy = {
        "a": {"p1": 0.90, "p2": 0.91, "p3": 0.0},
        "b": {"p1": 0.88, "p2": 0.89, "p3": 0.5},
        "c": {"p1": 0.91, "p2": 0.60, "p3": 0.0},
    }
    assert frontier(noisy) == {"p1": {"c"}, "p2": {"a"}, "p3": {"b"}}
    assert frontier(noisy, 0.1) == {"p1": {"a", "b", "c"}, "p2": {"a", "b"}, "p3": {"b"}}
    assert greedy_cover(noisy, 3) == ["b", "a", "c"]
    assert greedy_cover({"c": noisy["c"], "b": noisy["b"], "a": noisy["a"]}, 2, 0.1) == ["b", "a"]
    assert greedy_cover(noisy, 2, 0.1) == ["b", "a"]


@pytest.mark.parametrize(
    ("members", "k", "dealt"),
    [
        ("a", 4, "aaaa"),
        ("ab", 4, "abab"),
        ("abc", 4, "abca"),
        ("abcd", 4, "abcd"),
        ("abc", 2, "ab"),
    ],
)
def test_the_deal_fills_k_places_in_turn_the_best_first(members: str, k: int, dealt: str) -> None:
    assert deal(list(members), k) == list(dealt)
