"""Loads domains by their spec, e.g. `lab/sort_desc+add_one`, `reasoning_gym/leg_counting`, `jsonl:problems.jsonl`.

`FAMILIES` is the table of all kinds of specs. A row is added by the decorator `family`, or by an installed package: an
entry point of the group `fst.domains` that names what the decorator returned.

A spec may end with the mode in which answers are found in a response, `SPEC#MODE` (see fst/data/answers.py); otherwise
the family decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fst.data.answers import ASKED, known_mode
from fst.data.families import environments
from fst.data.families.hub import hub_verifier, load_hub
from fst.data.families.jsonl import file_verifier, load_file
from fst.data.families.lab import load_rule, load_star_graph
from fst.data.families.reasoning_gym import load_dataset, named_scorer
from fst.data.labels import asked_for, labels_of, lists_none, named_labels
from fst.data.types import SPLITS, Domain, Problem, Splits, SplitSizes, Verifier
from fst.data.verifiers import answers_alone, domain_verifier, reference_of
from fst.errors import UnknownDomain, VerifierError
from fst.tables import Table
from fst.types import AnswerMode, mode_of_spec, plain_spec

Loader = Callable[[str, SplitSizes, int], Splits]  # (spec, sizes, seed)
_CHOSEN = re.compile(r"[?&]verifier=")


@dataclass(frozen=True)
class Family:
    """A row of `FAMILIES`. `examples` are specs, each with a sentence on what it is; `load` draws or reads the problems
    of a spec; `verifier` is the name of what scores them, or gives it with its options for a spec; `reads` is a regular
    expression that matches the beginning of the family's specs (default: its name and a slash); `chosen` says whether a
    spec may name the verifier, by `?verifier=`. `answer` says how answers are found where a spec does not say it,
    `asks` which of these forms the seed prompt asks for then."""

    examples: Mapping[str, str]
    load: Loader
    verifier: str | Callable[[str], dict[str, Any]] = "exact"
    reads: str = ""
    chosen: bool = False
    answer: AnswerMode = "auto"
    asks: AnswerMode | None = None


FAMILIES = Table(
    "fst.domains",
    {
        "lab": Family(
            {
                "lab/sort_desc+add_one": "the lab's list rules on digits: an operation, a chain, if_<condition>(a,b)",
                "lab/letters:reverse": "the same rules on letters, where the rule has a wording for them",
            },
            load_rule,
            answer="whole",
        ),
        "star_graph": Family(
            {
                "star_graph/arms=3,length=4": "the path through a star graph; star_graph alone has 2 arms of 3 edges",
            },
            load_star_graph,
            reads="star_graph(/|$)",
            answer="whole",
        ),
        "reasoning_gym": Family(
            {"reasoning_gym/leg_counting": "a dataset of the library reasoning_gym, scored by its own scorer"},
            load_dataset,
            named_scorer,
            asks="tag",
        ),
        environments.NAME: Family(
            {"verifiers:gsm8k-v1": "an environment for Prime Intellect's library verifiers, its tasks of one turn"},
            environments.load_environment,
            environments.named_environment,
            reads="verifiers:",
            answer="whole",
        ),
        "jsonl": Family(
            {
                "jsonl:problems.jsonl": "your own problems: one object a line with id, question, answer",
                "jsonl:problems.jsonl?verifier=choice": "the same, and what scores those that name no verifier",
            },
            load_file,
            file_verifier,
            reads=r"jsonl:|.*\.jsonl($|\?verifier=)",
            chosen=True,
        ),
        "hub": Family(
            {
                "hub:openai/gsm8k:main?answer=answer&verifier=numeric": (
                    "a dataset of the Hugging Face hub or a local folder"
                ),
            },
            load_hub,
            hub_verifier,
            reads="hub:",
            chosen=True,
        ),
    },
    UnknownDomain,
)


def family(name: str, examples: Mapping[str, str], **facts: Any) -> Callable[[Loader], Family]:
    """A decorator that makes a loader a family and adds it to the table; `facts` are further fields of `Family`."""
    return lambda load: FAMILIES.add(name)(Family(examples, load, **facts))


def describe_families() -> list[tuple[str, str]]:
    """(example spec, what it is) of every family, for help texts; of an installed one that cannot be loaded, why."""
    return [described for name in FAMILIES.names() for described in _row(name).examples.items()]


def load_domain(spec: str, sizes: SplitSizes, seed: int) -> Domain:
    """Load the domain of a spec: disjoint splits, in a fixed order, and their verifier.

    `seed` affects only the train split, so runs with different seeds are judged on the same held-out problems. Raises
    UnknownDomain for a spec that no family reads, DataError for problems that cannot be used, and VerifierError for a
    verifier that cannot be built.
    """
    row, named, plain = _family(spec), verifier_of(spec), plain_spec(spec)
    if _CHOSEN.search(plain) and not row.chosen:
        raise VerifierError(f"{spec}: these problems have their own verifier; files and hub datasets take one")
    verify = None if lists_none(named) else domain_verifier(named)  # reports mistakes before problems are read
    splits = row.load(plain, sizes, seed)
    if plain != spec:
        splits = {name: tuple(replace(p, domain=spec) for p in problems) for name, problems in splits.items()}
    if verify is None:
        named = {**named, "labels": labels_of([problem.answer for name in SPLITS for problem in splits[name]])}
        verify = domain_verifier(named)
    return Domain(spec, **splits, verify=verify, named=named)


def verifier_of(spec: str) -> dict[str, Any]:
    """Return the name and options of a spec's verifier (see fst/data/verifiers.py) without drawing problems. The option
    `answer` is left out if the whole response is read."""
    named, mode = _family(spec).verifier, answer_mode(spec)
    values = {"name": named} if isinstance(named, str) else named(plain_spec(spec))
    return values if mode == "whole" else {**values, "answer": mode}


def answer_mode(spec: str) -> AnswerMode:
    """Return the mode in which answers to a spec's problems are found. Raises UnknownDomain for an unknown mode."""
    asked = mode_of_spec(spec)
    if not asked:
        return _family(spec).answer
    return known_mode(asked, spec, UnknownDomain)


def seed_prompt(text: str, domain: Domain) -> str:
    """Return the seed prompt of a domain: `text` (loop.seed_prompt), a line that names the labels if every problem has
    the same ones, and a line that asks for the form that answers must have, if any. What the text mentions already is
    not said again."""
    return "\n".join(filter(None, [text, asked_for(_labels(domain), text), _asked_form(text, domain.spec)])).strip()


def answer_verifier(spec: str, named: Mapping[str, Any] | None = None) -> Verifier:
    """Make the verifier for responses of which only the question and the right answer are known: `named`, or else the
    spec's verifier, or equality if that one needs more of a problem."""
    named, mode = named or verifier_of(spec), answer_mode(spec)
    return domain_verifier({"answer": mode, **(named if answers_alone(named) else {"name": "exact"})})


def right_answer(domain: Domain, problem: Problem) -> str | None:
    """Return a problem's answer if it earns reward 1 as a response. None otherwise: if it is a pattern, if the task has
    many solutions, or if the verifier requires more than the answer."""
    answer = reference_of(problem, domain.named or verifier_of(domain.spec))
    try:
        return answer if answer is not None and domain.verify(problem, answer).reward >= 1 else None
    except VerifierError:
        return None


def _asked_form(text: str, spec: str) -> str:
    mode: AnswerMode | None = answer_mode(spec) if mode_of_spec(spec) else _family(spec).asks
    asked = ASKED.get(mode or "whole", "")
    mentioned = {"tag": "<answer>", "boxed": "\\boxed", "marker": "Answer:"}.get(mode or "", asked)
    return "" if mentioned in text else asked


def _labels(domain: Domain) -> list[str]:
    """The labels that every problem of a domain is answered by; empty if there are none, or if problems differ."""
    default = domain.named or verifier_of(domain.spec)
    each = [named_labels(problem.verifier or default) for problem in domain.problems]
    return min(each) if len({frozenset(labels) for labels in each}) == 1 else []


def _family(spec: str) -> Family:
    """Find the last row of the table that reads a spec, or else that of an installed package. Raises UnknownDomain."""
    plain = plain_spec(spec)
    for name in _names():
        if re.match((row := _row(name)).reads or re.escape(f"{name}/"), plain):
            return row
    examples = "\n".join(f"  {example:<55} {sentence}" for example, sentence in describe_families())
    raise UnknownDomain(f"unknown domain {spec!r}; domains are written like these:\n{examples}")


def _names() -> Iterator[str]:
    """Yield the names in the table, the last first, then those of installed packages, which take about 30 ms to
    find."""
    own = list(FAMILIES.rows)
    yield from reversed(own)
    yield from (name for name in FAMILIES.names() if name not in own)


def _row(name: str) -> Family:
    """Return a family by name. If it cannot be loaded, return one that reads no spec and whose example says why."""
    try:
        row: Family = FAMILIES.get(name, FAMILIES.group)
    except UnknownDomain as exc:
        return Family({name: str(exc)}, load_file, reads="(?!)")  # a pattern that matches nothing
    return row
