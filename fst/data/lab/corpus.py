"""The text the lab base model is pretrained on, and what is held out of it.

Four kinds of text: *following* (an instruction, a list, the result), *generic* (a prompt that leaves the
rule undecided, any rule's result), *induction* (input -> expected pairs, the instruction that fits them),
and the same three on star graphs. Rules in `held_out()` appear in none of them, nor does any rule that
behaves alike; one-step rules cannot be held out, because their words would then mean nothing.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from itertools import permutations

from fst.data.lab.graph import PATH_RULE, apply_graph_rule, draw_graph, graph_instruction, graph_rules
from fst.data.lab.rules import CONDITIONS, OPS, Rule, draw_values, instruction, render, signature

GENERIC_PROMPTS = (
    "solve the task",
    "do the task",
    "answer the question",
    "follow the rule",
    "apply the rule",
    "complete the task",
    "give the right output",
    "you are a helpful assistant",
    "",
)
INDUCTION_PROMPTS = ("write the instruction", "write the instruction that turns each input into its output")

_HELD_OUT_SEED = 2605
_HELD_OUT_PAIRS = 24
_HELD_OUT_CONDITIONALS = 60
_NAMED_PAIR = Rule(("sort_desc", "add_one"))
_TURNS = 4  # list turns of a text; a text on graphs has half as many


@dataclass(frozen=True)
class Text:
    """One pretraining row: a system turn, then (user, assistant) turns that do not see each other."""

    system: str
    turns: tuple[tuple[str, str], ...]


def question(values: tuple[int, ...], surface: str) -> str:
    """The user turn of a list problem, e.g. `digits: 3 1 4 1`."""
    return f"{surface}: {render(values, surface)}"


def induction_request(pairs: list[tuple[str, str]]) -> str:
    """The user turn that asks the lab base for an instruction: `digits: 3 1 -> 1 3; ...`."""
    return "; ".join(f"{q} -> {a}" for q, a in pairs)


def one_step_rules(surface: str) -> tuple[Rule, ...]:
    """A rule for each operation that has a wording on the surface."""
    return tuple(r for r in (Rule((name,)) for name in OPS) if r.fits(surface))


def _distinct(rules: list[Rule], taken: set[int]) -> dict[int, list[Rule]]:
    """Rules by signature, without those that behave like one in `taken`."""
    classes: dict[int, list[Rule]] = {}
    for rule in rules:
        if signature(rule) not in taken:
            classes.setdefault(signature(rule), []).append(rule)
    return classes


@functools.cache
def _simple() -> frozenset[int]:
    identity = signature(Rule(("reverse", "reverse")))
    return frozenset({identity} | {signature(Rule((name,))) for name in OPS})


@functools.cache
def two_step_rules() -> dict[int, list[Rule]]:
    """All two-step rules that behave like no simpler rule, by signature (spellings together)."""
    return _distinct([Rule((a, b)) for a, b in permutations(OPS, 2)], set(_simple()))


@functools.cache
def conditional_rules() -> tuple[Rule, ...]:
    """One spelling of each conditional between two operations that behaves like no simpler rule."""
    rules = [Rule((a,), c, (b,)) for c in CONDITIONS for a, b in permutations(OPS, 2)]
    return tuple(spellings[0] for spellings in _distinct(rules, set(_simple())).values())


@functools.cache
def held_out() -> dict[str, tuple[Rule, ...]]:
    """Rules kept out of all pretraining text.

    `tune` pairs may be used to choose settings, `eval` pairs only to report; `conditional` likewise
    is never trained on. The first `eval` pair is sort_desc+add_one.
    """
    rng = random.Random(_HELD_OUT_SEED)
    named = signature(_NAMED_PAIR)
    others = [s for s in two_step_rules() if s != named]
    chosen = [two_step_rules()[s][0] for s in rng.sample(others, _HELD_OUT_PAIRS - 1)]
    half = _HELD_OUT_PAIRS // 2
    conditionals = tuple(rng.sample(conditional_rules(), _HELD_OUT_CONDITIONALS))
    return {"eval": (_NAMED_PAIR, *chosen[: half - 1]), "tune": tuple(chosen[half - 1 :]), "conditional": conditionals}


@functools.cache
def training_rules(surface: str) -> dict[str, tuple[Rule, ...]]:
    """What may appear in pretraining text on this surface, by kind."""
    forbidden = {signature(r) for rules in held_out().values() for r in rules}
    pairs = [r for s, rules in two_step_rules().items() if s not in forbidden for r in rules]
    conditionals = [r for r in conditional_rules() if signature(r) not in forbidden]
    return {
        "one-step": one_step_rules(surface),
        "two-step": tuple(r for r in pairs if r.fits(surface)),
        "conditional": tuple(r for r in conditionals if r.fits(surface)),
    }


@functools.cache
def training_graph_rules() -> tuple[str, ...]:
    """Graph rules that may appear in pretraining text: all but the path rule."""
    return tuple(r for r in graph_rules() if r != PATH_RULE)


def _draw_surface(rng: random.Random) -> str:
    return rng.choices(("digits", "letters", "graph"), (70, 20, 10))[0]


def _draw_rule(rng: random.Random, surface: str, weights: tuple[int, int, int]) -> Rule:
    kind = rng.choices(("one-step", "two-step", "conditional"), weights)[0]
    return rng.choice(training_rules(surface)[kind])


def _list_turn(rng: random.Random, surface: str, rule: Rule) -> tuple[str, str]:
    values = draw_values(rng)
    return question(values, surface), render(rule(values), surface)


def _graph_turn(rng: random.Random, rule: str) -> tuple[str, str]:
    graph = draw_graph(rng, arms=rng.choice((2, 2, 3)), arm_length=rng.choice((2, 3, 3)))
    return graph.question, apply_graph_rule(rule, graph)


def draw_following(rng: random.Random) -> Text:
    """An instruction, and lists or graphs with its results."""
    surface = _draw_surface(rng)
    if surface == "graph":
        name = rng.choice(training_graph_rules())
        return Text(graph_instruction(name, rng), tuple(_graph_turn(rng, name) for _ in range(_TURNS // 2)))
    rule = _draw_rule(rng, surface, (20, 40, 40))
    return Text(instruction(rule, surface, rng), tuple(_list_turn(rng, surface, rule) for _ in range(_TURNS)))


def draw_generic(rng: random.Random) -> Text:
    """A prompt that leaves the rule undecided, and lists or graphs with the results of a rule drawn for each."""
    surface = _draw_surface(rng)
    system = rng.choice(GENERIC_PROMPTS)
    if surface == "graph":
        return Text(system, tuple(_graph_turn(rng, rng.choice(training_graph_rules())) for _ in range(_TURNS // 2)))
    rules = [_draw_rule(rng, surface, (60, 30, 10)) for _ in range(_TURNS)]
    return Text(system, tuple(_list_turn(rng, surface, rule) for rule in rules))


def draw_induction(rng: random.Random) -> Text:
    """A request for an instruction, by input and expected pairs, and the instruction."""
    surface = _draw_surface(rng)
    system = rng.choice(INDUCTION_PROMPTS)
    if surface == "graph":
        name = rng.choice(training_graph_rules())
        pairs = [_graph_turn(rng, name) for _ in range(rng.randint(2, 3))]
        return Text(system, ((induction_request(pairs), graph_instruction(name, rng)),))
    rule = _draw_rule(rng, surface, (15, 50, 35))
    pairs = [_list_turn(rng, surface, rule) for _ in range(rng.randint(3, 6))]
    return Text(system, ((induction_request(pairs), instruction(rule, surface, rng)),))


def vocabulary() -> tuple[str, ...]:
    """Every word the lab's texts use, sorted; punctuation is left to the tokenizer's characters."""
    texts = [
        *GENERIC_PROMPTS,
        *INDUCTION_PROMPTS,
        "digits letters edges start goal none first then and if otherwise else node",
    ]
    for table in (OPS, CONDITIONS):
        for entry in table.values():
            texts += [*entry.digits, *entry.letters]
    texts += [p.replace("digit", "node") for op in OPS.values() for p in op.digits]
    rng = random.Random(0)
    texts += [graph_instruction(rule, rng) for rule in graph_rules() for _ in range(8)]
    words = {word.strip(",.:;") for text in texts for word in text.split()}
    return tuple(sorted(words | set("0123456789") | set("abcdefghijklmnopqrstuvwxyz") | {"->", ">"}))
