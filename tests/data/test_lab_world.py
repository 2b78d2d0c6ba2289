"""The lab's world. The invariants:

l1  each operation and condition does what its name says, on examples worked out by hand
l2  a rule's spelling and the rule itself are two forms of one thing; what cannot be read is named
l3  no held-out rule, under any spelling, is among the training rules or in the texts of pretraining
"""

from __future__ import annotations

import functools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.data.lab.corpus import (
    Text,
    draw_following,
    draw_generic,
    draw_induction,
    held_out,
    training_graph_rules,
    training_rules,
    two_step_rules,
)
from fst.data.lab.graph import PATH_RULE, StarGraph, apply_graph_rule, graph_instruction
from fst.data.lab.rules import CONDITIONS, OPS, Rule, Values, instruction, parse_rule, render, signature
from fst.errors import UnknownDomain

VALUES = (3, 1, 4, 9, 0)
EXPECTED = {
    "sort_asc": (0, 1, 3, 4, 9),
    "sort_desc": (9, 4, 3, 1, 0),
    "reverse": (0, 9, 4, 1, 3),
    "rotate_left": (1, 4, 9, 0, 3),
    "rotate_right": (0, 3, 1, 4, 9),
    "swap_ends": (0, 1, 4, 9, 3),
    "drop_first": (1, 4, 9, 0),
    "drop_last": (3, 1, 4, 9),
    "drop_max": (3, 1, 4, 0),
    "drop_min": (3, 1, 4, 9),
    "add_one": (4, 2, 5, 0, 1),
    "sub_one": (2, 0, 3, 8, 9),
    "double": (6, 2, 8, 8, 0),
    "nine_minus": (6, 8, 5, 0, 9),
    "keep_even": (4, 0),
    "keep_odd": (3, 1, 9),
}
GRAPH = StarGraph((("a", "b"), ("a", "d"), ("d", "e"), ("b", "c")), ("a", "b", "c"))


def test_l1_every_operation_on_a_worked_example() -> None:
    assert {name: op.apply(VALUES) for name, op in OPS.items()} == EXPECTED


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("first_even", (4, 1), (3, 2)),
        ("last_even", (3, 2), (4, 1)),
        ("first_gt_last", (5, 9, 4), (4, 9, 4)),
        ("more_than_four", (1, 2, 3, 4, 5), (1, 2, 3, 4)),
    ],
)
def test_l1_every_condition_on_both_sides(name: str, yes: Values, no: Values) -> None:
    assert (CONDITIONS[name].holds(yes), CONDITIONS[name].holds(no)) == (True, False)


def test_l1_chains_apply_in_order_and_conditionals_take_their_branch() -> None:
    assert parse_rule("sort_desc+add_one")((9, 1, 5)) == (0, 6, 2)
    assert parse_rule("add_one+sort_desc")((9, 1, 5)) == (6, 2, 0)
    conditional = parse_rule("if_first_even(sort_desc,reverse)")
    assert (conditional((2, 7, 1)), conditional((3, 7, 1))) == ((7, 2, 1), (1, 7, 3))
    assert (render((), "digits"), render((3, 0), "letters")) == ("none", "d a")


def test_l1_graph_rules_on_a_worked_example() -> None:
    answers = {rule: apply_graph_rule(rule, GRAPH) for rule in ("trace_back", PATH_RULE, "neighbors", "goal_start")}
    assert answers == {"trace_back": "c b a", PATH_RULE: "a b c", "neighbors": "b d", "goal_start": "c a"}
    assert GRAPH.question == "edges: a > b, a > d, d > e, b > c; start a goal c"


chains = st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=3).map(tuple)
rules = st.builds(Rule, chains) | st.builds(Rule, chains, st.sampled_from(sorted(CONDITIONS)), chains)


@given(rules)
def test_l2_a_rule_is_read_back_from_its_spelling(rule: Rule) -> None:
    assert parse_rule(str(rule)) == rule


@given(rules, st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple))
def test_l2_any_rule_maps_digits_to_digits(rule: Rule, values: Values) -> None:
    assert set(rule(values)) <= set(range(10))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sort_up", "unknown operation 'sort_up'"),
        ("reverse+", "unknown operation ''"),
        ("", "unknown operation ''"),
        ("if_big(reverse,double)", "unknown condition 'big'"),
        ("if_first_even(reverse,triple)", "unknown operation 'triple'"),
        ("if_first_even(reverse)", "unknown operation 'if_first_even(reverse)'"),
    ],
)
def test_l2_what_cannot_be_read_is_named(text: str, words: str) -> None:
    with pytest.raises(UnknownDomain) as error:
        parse_rule(text)
    assert words in str(error.value)


def forbidden() -> dict[int, Rule]:
    return {signature(rule): rule for group in held_out().values() for rule in group}


def test_l3_held_out_sets_are_distinct_and_begin_with_the_named_pair() -> None:
    sizes = {name: len(group) for name, group in held_out().items()}
    assert sizes == {"eval": 12, "tune": 12, "conditional": 60}
    assert len(forbidden()) == 84
    assert str(held_out()["eval"][0]) == "sort_desc+add_one"


@pytest.mark.parametrize("surface", ["digits", "letters"])
def test_l3_no_training_rule_behaves_like_a_held_out_one(surface: str) -> None:
    trained = [rule for group in training_rules(surface).values() for rule in group]
    assert [str(rule) for rule in trained if signature(rule) in forbidden()] == []
    assert len(training_rules("digits")["one-step"]) == 16
    assert PATH_RULE not in training_graph_rules()
    assert len(training_graph_rules()) == 20


def _wordings(rule: Rule, surface: str) -> set[str]:
    """All paraphrases of a rule: a sample large enough to meet each of them."""
    rng = random.Random(1)
    return {instruction(rule, surface, rng) for _ in range(300)}


@functools.cache
def held_out_wordings() -> frozenset[str]:
    spellings = [r for s, group in two_step_rules().items() if s in forbidden() for r in group]
    held = [*spellings, *held_out()["conditional"]]
    lists = {text for r in held for s in ("digits", "letters") if r.fits(s) for text in _wordings(r, s)}
    rng = random.Random(2)
    return frozenset(lists | {graph_instruction(PATH_RULE, rng) for _ in range(300)})


def texts(draw: str) -> list[Text]:
    rng = random.Random(7)
    kinds = {"following": draw_following, "generic": draw_generic, "induction": draw_induction}
    return [kinds[draw](rng) for _ in range(3000)]


@pytest.mark.parametrize("kind", ["following", "generic", "induction"])
def test_l3_no_text_words_a_held_out_rule(kind: str) -> None:
    written = {line for text in texts(kind) for line in (text.system, *(turn[1] for turn in text.turns))}
    assert len(held_out_wordings()) > 1000
    assert written & held_out_wordings() == set()


def _values(line: str) -> Values:
    """The digits of `digits: 3 1`, `letters: d b`, or of an answer."""
    items = line.partition(":")[2].split() or line.split()
    return () if items == ["none"] else tuple("0123456789".find(i) if i.isdigit() else ord(i) - ord("a") for i in items)


def _lists(text: Text) -> list[tuple[Values, Values]]:
    """The (input, output) lists of a text that are not about graphs."""
    if text.system.startswith("write the instruction"):
        pairs = [
            tuple(pair.split(" -> ")) for pair in text.turns[0][0].split("; ") if pair.startswith(("digits", "letters"))
        ]
    else:
        pairs = [turn for turn in text.turns if turn[0].startswith(("digits", "letters"))]
    return [(_values(question), _values(answer)) for question, answer in pairs]


def _unexplained(shown: list[tuple[Values, Values]]) -> bool:
    """Whether these lists fit a held-out pair and no rule of the training texts."""
    pairs = [rule for name in ("eval", "tune") for rule in held_out()[name]]
    if not any(all(rule(a) == b for a, b in shown) for rule in pairs):
        return False
    trained = (rule for group in training_rules("digits").values() for rule in group)
    return not any(all(rule(a) == b for a, b in shown) for rule in trained)


def test_l3_the_check_of_the_next_test_sees_a_planted_rule() -> None:
    assert _unexplained(
        [((3, 1, 4, 1), (5, 4, 2, 2)), ((9, 0, 5, 2, 7), (0, 8, 6, 3, 1)), ((0, 3, 8, 6), (9, 7, 4, 1))]
    )


@pytest.mark.parametrize("kind", ["following", "induction"])
def test_l3_no_text_shows_a_held_out_rule_at_work(kind: str) -> None:
    """Few short lists can fit a held-out pair by chance; then they fit a training rule as well, theirs."""
    shown = [lists for text in texts(kind) if len(lists := _lists(text)) >= 3]
    assert len(shown) > 2000
    assert [lists for lists in shown if _unexplained(lists)] == []


def _path(asked: str) -> str | None:
    """The path from start to goal of a graph question, None where its arms are shorter than three edges."""
    match = re.search(r"start (\w) goal (\w)$", asked)
    into = {b: a for a, b in re.findall(r"(\w) > (\w)", asked)}
    nodes = [match[2]] if match else []
    while nodes and nodes[0] in into:
        nodes.insert(0, into[nodes[0]])
    return " ".join(nodes) if len(nodes) > 3 else None


def test_l3_no_graph_text_answers_with_the_path() -> None:
    """On arms of three edges, as the domain has them. On arms of two, walking back and then swapping the ends
    is the path too, and these texts are in the pretraining."""
    asked = [(turn[0], turn[1]) for kind in ("following", "generic") for text in texts(kind) for turn in text.turns]
    for text in texts("induction"):
        asked += [(q, a) for q, _, a in (pair.partition(" -> ") for pair in text.turns[0][0].split("; edges"))]
    paths = [(path, answer) for question, answer in asked if (path := _path(question))]
    assert _path("edges: a > b, c > d, b > c; start a goal d") == "a b c d"
    assert len(paths) > 500
    assert [path for path, answer in paths if path == answer] == []
