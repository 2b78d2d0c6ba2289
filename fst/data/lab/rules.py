"""The lab's world: list rules, their surfaces and their wording in plain English.

A rule is a chain of one or more operations (`sort_desc+add_one`) or a conditional
(`if_first_even(sort_desc,reverse)`). A surface says what a list is made of (digits, letters) or
where it comes from (a star graph). `signature` is a rule's behaviour on fixed probes: two rules with
the same signature are the same rule, whatever their spelling, and are held out together.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from fst.errors import UnknownDomain

Values = tuple[int, ...]

MIN_LENGTH, MAX_LENGTH = 4, 6
EMPTY = "none"


def _drop_at(values: Values, position: int) -> Values:
    return values[:position] + values[position + 1 :]


@dataclass(frozen=True)
class _Worded:
    """Something with a name and paraphrases for each surface, none where it has no wording."""

    name: str
    digits: tuple[str, ...]
    letters: tuple[str, ...]

    def phrases(self, surface: str) -> tuple[str, ...]:
        """The paraphrases on a surface."""
        return self.digits if surface == "digits" else self.letters


@dataclass(frozen=True)
class Op(_Worded):
    """A list operation: `apply` maps values 0-9 to values 0-9."""

    apply: Callable[[Values], Values]


@dataclass(frozen=True)
class Condition(_Worded):
    """A yes/no question about a list."""

    holds: Callable[[Values], bool]


def _both(*phrases: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Phrases for digits and for letters that differ in the item's noun alone; `@` stands for it."""
    return tuple(p.replace("@", "digit") for p in phrases), tuple(p.replace("@", "letter") for p in phrases)


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            "sort_asc",
            (
                "sort the digits from smallest to largest",
                "put the digits in increasing order",
                "arrange the digits in ascending order",
            ),
            ("sort the letters from first to last", "put the letters in alphabetical order"),
            lambda v: tuple(sorted(v)),
        ),
        Op(
            "sort_desc",
            (
                "sort the digits from largest to smallest",
                "put the digits in decreasing order",
                "arrange the digits in descending order",
            ),
            ("sort the letters from last to first", "put the letters in reverse alphabetical order"),
            lambda v: tuple(sorted(v, reverse=True)),
        ),
        Op(
            "reverse", *_both("reverse the list", "write the list backwards", "turn the list around"), lambda v: v[::-1]
        ),
        Op(
            "rotate_left",
            *_both("move the first @ to the end", "put the first @ last", "rotate the list to the left"),
            lambda v: v[1:] + v[:1],
        ),
        Op(
            "rotate_right",
            *_both("move the last @ to the front", "put the last @ first", "rotate the list to the right"),
            lambda v: v[-1:] + v[:-1],
        ),
        Op(
            "swap_ends",
            *_both(
                "swap the first and the last @",
                "exchange the two ends of the list",
                "let the first and the last @ trade places",
            ),
            lambda v: v if len(v) < 2 else v[-1:] + v[1:-1] + v[:1],
        ),
        Op("drop_first", *_both("remove the first @", "leave out the first @", "delete the first @"), lambda v: v[1:]),
        Op("drop_last", *_both("remove the last @", "leave out the last @", "delete the last @"), lambda v: v[:-1]),
        Op(
            "drop_max",
            ("remove the largest digit", "leave out the largest digit", "delete the largest digit"),
            ("remove the latest letter", "leave out the latest letter"),
            lambda v: _drop_at(v, v.index(max(v))) if v else v,
        ),
        Op(
            "drop_min",
            ("remove the smallest digit", "leave out the smallest digit", "delete the smallest digit"),
            ("remove the earliest letter", "leave out the earliest letter"),
            lambda v: _drop_at(v, v.index(min(v))) if v else v,
        ),
        Op(
            "add_one",
            ("add one to each digit", "increase each digit by one", "raise every digit by one"),
            ("shift each letter forward by one", "replace each letter with the next one"),
            lambda v: tuple((x + 1) % 10 for x in v),
        ),
        Op(
            "sub_one",
            ("subtract one from each digit", "decrease each digit by one", "lower every digit by one"),
            ("shift each letter back by one", "replace each letter with the one before"),
            lambda v: tuple((x - 1) % 10 for x in v),
        ),
        Op(
            "double",
            ("double each digit", "multiply each digit by two", "add each digit to itself"),
            (),
            lambda v: tuple((2 * x) % 10 for x in v),
        ),
        Op(
            "nine_minus",
            (
                "subtract each digit from nine",
                "replace each digit with nine minus the digit",
                "take each digit away from nine",
            ),
            (),
            lambda v: tuple(9 - x for x in v),
        ),
        Op(
            "keep_even",
            ("keep only the even digits", "remove the odd digits", "leave out every odd digit"),
            (),
            lambda v: tuple(x for x in v if x % 2 == 0),
        ),
        Op(
            "keep_odd",
            ("keep only the odd digits", "remove the even digits", "leave out every even digit"),
            (),
            lambda v: tuple(x for x in v if x % 2 == 1),
        ),
    )
}

CONDITIONS: dict[str, Condition] = {
    c.name: c
    for c in (
        Condition(
            "first_even", ("the first digit is even", "the list starts with an even digit"), (), lambda v: v[0] % 2 == 0
        ),
        Condition(
            "last_even", ("the last digit is even", "the list ends with an even digit"), (), lambda v: v[-1] % 2 == 0
        ),
        Condition(
            "first_gt_last",
            ("the first digit is larger than the last digit", "the first digit is above the last digit"),
            ("the first letter comes after the last letter",),
            lambda v: v[0] > v[-1],
        ),
        Condition(
            "more_than_four",
            ("there are more than four digits", "the list has more than four digits"),
            ("there are more than four letters", "the list has more than four letters"),
            lambda v: len(v) > 4,
        ),
    )
}


@dataclass(frozen=True)
class Rule:
    """A chain of operations, or (with `condition`) a choice between two chains.

    `then` is the chain; `otherwise` is empty unless `condition` is set.
    """

    then: tuple[str, ...]
    condition: str | None = None
    otherwise: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.condition is None:
            return "+".join(self.then)
        return f"if_{self.condition}({'+'.join(self.then)},{'+'.join(self.otherwise)})"

    def branch(self, values: Values) -> tuple[str, ...]:
        """The chain that applies to these values."""
        if self.condition is None or CONDITIONS[self.condition].holds(values):
            return self.then
        return self.otherwise

    def __call__(self, values: Values) -> Values:
        chain = self.branch(values)
        for name in chain:
            values = OPS[name].apply(values)
        return values

    def fits(self, surface: str) -> bool:
        """Whether every part of the rule has a wording on this surface."""
        parts = [OPS[name].phrases(surface) for name in self.then + self.otherwise]
        if self.condition is not None:
            parts.append(CONDITIONS[self.condition].phrases(surface))
        return all(parts)


_SPEC = re.compile(r"^if_(?P<condition>\w+)\((?P<then>[\w+]+),(?P<otherwise>[\w+]+)\)$")


def parse_rule(text: str) -> Rule:
    """Read a rule from its spec. Raises UnknownDomain naming the part that is unknown."""

    def chain(part: str) -> tuple[str, ...]:
        names = tuple(part.split("+"))
        for name in names:
            if name not in OPS:
                raise UnknownDomain(f"unknown operation {name!r} in rule {text!r}; known: {', '.join(OPS)}")
        return names

    match = _SPEC.match(text)
    if match is None:
        return Rule(chain(text))
    if match["condition"] not in CONDITIONS:
        raise UnknownDomain(
            f"unknown condition {match['condition']!r} in rule {text!r}; known: {', '.join(CONDITIONS)}"
        )
    return Rule(chain(match["then"]), match["condition"], chain(match["otherwise"]))


SYMBOLS = {"digits": "0123456789", "letters": "abcdefghij"}


def render(values: Values, surface: str) -> str:
    """Values as text: `3 1 4`, or `d b e`; an empty list is `none`."""
    return " ".join(SYMBOLS[surface][v] for v in values) or EMPTY


def draw_values(rng: random.Random) -> Values:
    """A list of 4 to 6 digits, uniform in length and in each digit."""
    return tuple(rng.randrange(10) for _ in range(rng.randint(MIN_LENGTH, MAX_LENGTH)))


@functools.cache
def _probes() -> tuple[Values, ...]:
    rng = random.Random(20260512)
    return tuple(draw_values(rng) for _ in range(300))


@functools.cache
def signature(rule: Rule) -> int:
    """A hash of the rule's results on fixed probes: equal for rules that agree on all of them."""
    return hash(tuple(rule(v) for v in _probes()))


JOINS = ("{a}, then {b}", "first {a}, then {b}", "{a} and then {b}")
CHOICES = ("if {c}, {a}, otherwise {b}", "if {c} then {a}, else {b}")


def instruction(rule: Rule, surface: str, rng: random.Random | None = None) -> str:
    """The rule in plain English; with `rng` a random paraphrase, without one the canonical wording."""

    def pick(options: tuple[str, ...]) -> str:
        return options[0] if rng is None else rng.choice(options)

    def chain(names: tuple[str, ...]) -> str:
        text = pick(OPS[names[0]].phrases(surface))
        for name in names[1:]:
            text = pick(JOINS).format(a=text, b=pick(OPS[name].phrases(surface)))
        return text

    if rule.condition is None:
        return chain(rule.then)
    condition = pick(CONDITIONS[rule.condition].phrases(surface))
    return pick(CHOICES).format(c=condition, a=chain(rule.then), b=chain(rule.otherwise))
