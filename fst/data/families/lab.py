"""Problems of the lab: list rules (`lab/sort_desc+add_one`, `lab/letters:reverse`) and star graphs (`star_graph`)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from fst.data.dealing import deal
from fst.data.lab.corpus import question
from fst.data.lab.graph import NODES, PATH_RULE, apply_graph_rule, draw_graph
from fst.data.lab.rules import CONDITIONS, OPS, SYMBOLS, Rule, draw_values, parse_rule, render
from fst.data.types import Splits, SplitSizes
from fst.errors import UnknownDomain


def load_rule(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """Problems of a list rule. Raises UnknownDomain for a spec that cannot be read."""
    rest = spec.removeprefix("lab/")
    surface, colon, text = rest.partition(":")
    if not colon:
        surface, text = "digits", rest
    if surface not in SYMBOLS:
        raise UnknownDomain(f"unknown surface {surface!r} in 'lab/{rest}'; known: {', '.join(SYMBOLS)}")
    rule = parse_rule(text)
    if not rule.fits(surface):
        wordless = [name for name in rule.then + rule.otherwise if not OPS[name].phrases(surface)]
        if rule.condition and not CONDITIONS[rule.condition].phrases(surface):
            wordless.append(f"if_{rule.condition}")
        raise UnknownDomain(
            f"the rule {text!r} cannot be put in words on {surface}: {', '.join(dict.fromkeys(wordless))} "
            f"has no wording there; use another rule, or the surface digits: lab/{text}"
        )

    def draws(seed_text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        rng = random.Random(seed_text)
        while True:
            values = draw_values(rng)
            yield question(values, surface), render(rule(values), surface), _branch(rule, values)

    return deal(spec, draws, sizes, seed, source=f"lab/{surface}:{rule}")


def _branch(rule: Rule, values: tuple[int, ...]) -> dict[str, Any]:
    """The slice a problem belongs to: which branch of a conditional decides it."""
    if rule.condition is None:
        return {}
    return {"branch": "then" if CONDITIONS[rule.condition].holds(values) else "otherwise"}


def load_star_graph(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """Problems of a star graph. Raises UnknownDomain for a spec that cannot be read."""
    rest = spec.partition("/")[2]
    numbers = {"arms": 2, "length": 3}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if key not in numbers or not value.isdecimal() or int(value) < 1:
            raise UnknownDomain(
                f"star_graph cannot read {part!r}; write star_graph/arms=3,length=4 (whole numbers from 1)"
            )
        numbers[key] = int(value)
    arms, length = numbers["arms"], numbers["length"]
    if 1 + arms * length > len(NODES):
        raise UnknownDomain(
            f"a star graph with {arms} arms of {length} edges needs {1 + arms * length} nodes, and there are "
            f"{len(NODES)} letters; make arms times length at most {len(NODES) - 1}"
        )

    def draws(seed_text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        rng = random.Random(seed_text)
        while True:
            graph = draw_graph(rng, arms, length)
            yield graph.question, apply_graph_rule(PATH_RULE, graph), {}

    return deal(spec, draws, sizes, seed, source=f"star_graph/{arms},{length}")
