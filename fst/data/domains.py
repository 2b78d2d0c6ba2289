"""Domains by their spec, e.g. `lab/sort_desc+add_one`, `reasoning_gym/leg_counting`, `jsonl:problems.jsonl`.

Where problems are made (lab, star_graph, reasoning_gym), a question's split is a hash of its text: a quarter
of all questions is test, a quarter validation, half train. So the splits are disjoint whatever their sizes,
seeds and rules, and a question held out in one rule is held out in all. Held-out splits depend on the spec
only: runs of all seeds are judged on the same problems. The train split depends on the seed as well.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from fst.data.families.hub import hub_verifier, load_hub
from fst.data.families.jsonl import load_jsonl
from fst.data.families.reasoning_gym import open_dataset
from fst.data.lab.corpus import question
from fst.data.lab.graph import NODES, PATH_RULE, apply_graph_rule, draw_graph
from fst.data.lab.rules import CONDITIONS, OPS, SYMBOLS, Rule, draw_values, parse_rule, render
from fst.data.types import Domain, Problem, SplitSizes, Verifier
from fst.data.verifiers import build_verifier
from fst.errors import DataError, UnknownDomain

Drawn = tuple[str, str, dict[str, Any]]
Draws = Callable[[str], Iterator[Drawn]]

# Verifiers that `fst.data.verifiers` does not build.
EACH, GYM = "each problem's own", "reasoning_gym"

_SHARES = ("test", "validation", "train", "train")
# Draws per problem wanted before a source counts as exhausted; four fill the smallest share on average.
_PATIENCE, _PATIENCE_FLOOR = 20, 400

_FAMILIES = (
    ("lab/sort_desc+add_one", "the lab's list rules on digits: an operation, a chain, if_<condition>(a,b)"),
    ("lab/letters:reverse", "the same rules on letters, where the rule has a wording for them"),
    ("star_graph/arms=3,length=4", "the path through a star graph; star_graph alone has 2 arms of 3 edges"),
    ("reasoning_gym/leg_counting", "a dataset of the library reasoning_gym, scored by its own scorer"),
    ("jsonl:problems.jsonl", "your own problems: one object a line with id, question, answer"),
    ("hub:openai/gsm8k:main?answer=answer&verifier=numeric", "a dataset of the Hugging Face hub or a local folder"),
)


def describe_families() -> list[tuple[str, str]]:
    """(example spec, what it is) of every family, for help texts."""
    return list(_FAMILIES)


def load_domain(spec: str, sizes: SplitSizes, seed: int, context_tokens: Callable[[str], int] | None = None) -> Domain:
    """The domain of a spec: disjoint splits, in a fixed order, and their verifier.

    `seed` decides the train split only. `context_tokens(question)` is the number of tokens the model's
    context has left for the answer once the question is in the prompt; a problem that leaves none is an error.
    Raises UnknownDomain for a spec no family reads, DataError for problems that cannot be used.
    """
    domain = _read(spec, sizes, seed)
    if context_tokens is not None:
        _check_room(domain, context_tokens)
    return domain


def verifier_of(spec: str) -> dict[str, Any]:
    """The verifier of a spec by its name, without drawing problems: one of `fst.data.verifiers`; EACH where every
    problem names its own; GYM with a `dataset` for the scorer that comes with it."""
    family, rest = _family(spec)
    if family == "hub":
        return {"name": hub_verifier(spec)}
    if family == "jsonl":
        return {"name": EACH}
    if family == "reasoning_gym":
        return {"name": GYM, "dataset": rest}
    return {"name": "exact"}


def _read(spec: str, sizes: SplitSizes, seed: int) -> Domain:
    family, rest = _family(spec)
    if family == "hub":
        return load_hub(spec, sizes, seed)
    if family == "jsonl":
        return load_jsonl(spec, sizes, seed)
    if family == "lab":
        return _deal(spec, *_lab(rest), sizes, seed)
    if family == "star_graph":
        return _deal(spec, *_star_graph(rest), sizes, seed)
    draws, verify = open_dataset(rest)
    return _deal(spec, rest, draws, verify, sizes, seed)


def _family(spec: str) -> tuple[str, str]:
    """(family, what the spec says after it). Raises UnknownDomain."""
    family, slash, rest = spec.partition("/")
    if spec.startswith("hub:"):
        return "hub", spec
    if spec.startswith("jsonl:") or spec.endswith(".jsonl"):
        return "jsonl", spec
    if family == "star_graph" or (family in ("lab", "reasoning_gym") and slash):
        return family, rest
    examples = "\n".join(f"  {example:<55} {sentence}" for example, sentence in _FAMILIES)
    raise UnknownDomain(f"unknown domain {spec!r}; domains are written like these:\n{examples}")


def _check_room(domain: Domain, context_tokens: Callable[[str], int]) -> None:
    problems = (*domain.train, *domain.validation, *domain.test)
    crowded = [problem.id for problem in problems if context_tokens(problem.question) < 1]
    if crowded:
        raise DataError(
            f"{domain.spec}: {len(crowded)} of {len(problems)} questions leave no room for an answer in the model's "
            f"context, the first is {crowded[0]!r}; shorten or remove them, or use a model with a longer context"
        )


def _share(text: str) -> str:
    return _SHARES[hashlib.sha256(text.encode()).digest()[0] % len(_SHARES)]


def _deal(spec: str, source: str, draws: Draws, verify: Verifier, sizes: SplitSizes, seed: int) -> Domain:
    """Splits of distinct questions drawn from a source; `source` is its name, equal for equal sources."""

    def split(name: str, size: int, seed_text: str) -> tuple[Problem, ...]:
        problems: dict[str, Problem] = {}
        if size < 1:
            return ()
        for text, answer, meta in islice(draws(f"{source}|{name}|{seed_text}"), _PATIENCE_FLOOR + _PATIENCE * size):
            if _share(text) == name and text not in problems:
                problem_id = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
                problems[text] = Problem(problem_id, spec, text, answer, meta)
            if len(problems) == size:
                return tuple(problems.values())
        raise DataError(
            f"{spec} holds too few distinct questions: {len(problems)} found for the {name} split, {size} asked; "
            f"ask for at most {len(problems)}"
        )

    return Domain(
        spec,
        split("train", sizes.train, f"seed {seed}"),
        split("validation", sizes.validation, "held out"),
        split("test", sizes.test, "held out"),
        verify,
    )


def _lab(rest: str) -> tuple[str, Draws, Verifier]:
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

    def draws(seed_text: str) -> Iterator[Drawn]:
        rng = random.Random(seed_text)
        while True:
            values = draw_values(rng)
            yield question(values, surface), render(rule(values), surface), _branch(rule, values)

    return f"lab/{surface}:{rule}", draws, build_verifier("exact", {})


def _branch(rule: Rule, values: tuple[int, ...]) -> dict[str, Any]:
    """The slice a problem belongs to: which branch of a conditional decides it."""
    if rule.condition is None:
        return {}
    return {"branch": "then" if CONDITIONS[rule.condition].holds(values) else "otherwise"}


def _star_graph(rest: str) -> tuple[str, Draws, Verifier]:
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

    def draws(seed_text: str) -> Iterator[Drawn]:
        rng = random.Random(seed_text)
        while True:
            graph = draw_graph(rng, arms, length)
            yield graph.question, apply_graph_rule(PATH_RULE, graph), {}

    return f"star_graph/{arms},{length}", draws, build_verifier("exact", {})
