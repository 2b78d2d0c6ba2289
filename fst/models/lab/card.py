"""Measurements of the lab base model, for its card.

Following: share of correct answers under the right instruction, sampled (T=1) and greedy. Generic: the same under
prompts that do not state the rule. Induction: share of proposals from six (input, expected) pairs that state exactly
the hidden rule, per sample and as the share of cases with at least one among 32 samples; the last also for samples
drawn as the reflector draws them, each from its own subset of eight pairs. Exact means the same behaviour: a proposal's
text is looked up among all wordings of all rules, so another wording of the rule counts and an almost correct rule does
not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fst.data.lab.corpus import (
    GENERIC_PROMPTS,
    held_out,
    induction_request,
    one_step_rules,
    question,
    training_rules,
)
from fst.data.lab.rules import CHOICES, CONDITIONS, JOINS, OPS, Rule, draw_values, instruction, render, signature
from fst.models.policy import Message, Policy
from fst.models.reflector import INDUCTION_SYSTEM
from fst.models.sampler import Answer

PROBLEMS_PER_RULE = 16
INDUCTION_PAIRS = 6
REFLECTOR_PAIRS = 8  # pairs that a reflection reads (fast.minibatch); its requests hold subsets of them
INDUCTION_SAMPLES = 32
SURFACE = "digits"


def rule_kinds() -> dict[str, tuple[Rule, ...]]:
    """The rules that each row of the card is measured on. Held-out rules are in no pretraining text."""
    rng = random.Random(7)
    trained = training_rules(SURFACE)
    held = held_out()
    fitting = tuple(r for r in (*held["eval"], *held["tune"]) if r.fits(SURFACE))
    return {
        "one-step": one_step_rules(SURFACE),
        "two-step, seen": tuple(rng.sample(trained["two-step"], 24)),
        "two-step, held out": fitting,
        "conditional, seen": tuple(rng.sample(trained["conditional"], 24)),
        "conditional, held out": held["conditional"][:24],
    }


def read_instruction(text: str) -> Rule | None:
    """The rule that a text in the lab's wording states, or None."""
    phrases = {p: name for name, op in OPS.items() for p in op.phrases(SURFACE)}

    def one(part: str) -> tuple[str, ...] | None:
        return (phrases[part],) if part in phrases else None

    def chain(part: str) -> tuple[str, ...] | None:
        if part in phrases:
            return one(part)
        for a, b in _splits(part, JOINS):
            first, second = one(a), one(b)
            if first and second:
                return first + second
        return None

    for name, condition in CONDITIONS.items():
        for phrase in condition.phrases(SURFACE):
            for form in CHOICES:
                for a, b in _splits(text, (form.replace("{c}", phrase),)):
                    then, otherwise = chain(a), chain(b)
                    if then and otherwise:
                        return Rule(then, name, otherwise)
    plain = chain(text)
    return Rule(plain) if plain else None


def _splits(text: str, forms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(a, b) for every way in which `text` fits a form with the placeholders {a} and {b}."""
    for form in forms:
        head, rest = form.split("{a}")
        middle = rest.split("{b}")[0]
        if text.startswith(head):
            body = text[len(head) :]
            at = body.find(middle)
            while at >= 0:
                yield body[:at], body[at + len(middle) :]
                at = body.find(middle, at + 1)


def measure_card(policy: Policy, seed: int = 11, report: Callable[[str], None] = lambda row: None) -> dict[str, Any]:
    """Measure all rows of the card, by kind of rule; shares are in [0, 1]."""
    card: dict[str, Any] = {}
    for kind, rules in rule_kinds().items():
        report(kind)
        card[kind] = {
            "rules": len(rules),
            "sampled": _following(policy, rules, seed, 1.0),
            "greedy": _following(policy, rules, seed, 0.0),
            "generic": _following(policy, rules, seed, 1.0, generic=True),
            **_induction(policy, rules, seed),
        }
    return card


def following(policy: Policy, without: Sequence[Rule], seed: int) -> dict[str, float]:
    """Measure the share of correct sampled answers under each rule's own instruction, by kind of rule. Rules that
    behave like one in `without` are left out."""
    known = {signature(rule) for rule in without}
    return {
        kind: _following(policy, [rule for rule in rules if signature(rule) not in known], seed, 1.0)
        for kind, rules in rule_kinds().items()
    }


def _following(policy: Policy, rules: Sequence[Rule], seed: int, temperature: float, generic: bool = False) -> float:
    rng = random.Random(seed)
    asked, expected = [], []
    for rule in rules:
        for _ in range(PROBLEMS_PER_RULE):
            values = draw_values(rng)
            prompt = rng.choice(GENERIC_PROMPTS) if generic else instruction(rule, SURFACE, rng)
            asked.append(policy.messages(prompt, question(values, SURFACE)))
            expected.append(render(rule(values), SURFACE))
    answers = policy.answer(asked, 1, seed, temperature)
    return sum(a[0].text == e for a, e in zip(answers, expected, strict=True)) / len(expected)


def _induction(policy: Policy, rules: Sequence[Rule], seed: int, repeats: int = 4) -> dict[str, float]:
    rng = random.Random(seed)
    same, bagged, hidden = [], [], []
    for rule in rules:
        for _ in range(repeats):
            values = [draw_values(rng) for _ in range(REFLECTOR_PAIRS)]
            pairs = [(question(v, SURFACE), render(rule(v), SURFACE)) for v in values]
            same.append(_request(policy, pairs[:INDUCTION_PAIRS]))
            sizes = [rng.randint(3, INDUCTION_PAIRS) for _ in range(INDUCTION_SAMPLES)]
            bagged += [_request(policy, rng.sample(pairs, size)) for size in sizes]
            hidden.append(signature(rule))
    single, in_32 = _share_exact(policy.answer(same, INDUCTION_SAMPLES, seed, 1.0, max_new_tokens=48), hidden)
    answers = iter(group[0] for group in policy.answer(bagged, 1, seed, 1.0, max_new_tokens=48))
    _, bagged_in_32 = _share_exact([[next(answers) for _ in range(INDUCTION_SAMPLES)] for _ in hidden], hidden)
    return {"induction": single, "induction_in_32": in_32, "induction_in_32_bagged": bagged_in_32}


def _request(policy: Policy, pairs: list[tuple[str, str]]) -> list[Message]:
    return policy.messages(INDUCTION_SYSTEM, induction_request(pairs))


def _share_exact(groups: Sequence[Sequence[Answer]], hidden: Sequence[int]) -> tuple[float, float]:
    """(share of all samples that state the hidden rule, share of groups with at least one that does)."""
    single = any_of = 0
    for group, wanted in zip(groups, hidden, strict=True):
        read = [read_instruction(a.text) for a in group]
        right = sum(r is not None and signature(r) == wanted for r in read)
        single += right
        any_of += right > 0
    return single / (len(hidden) * INDUCTION_SAMPLES), any_of / len(hidden)


def markdown(card: dict[str, dict[str, Any]]) -> str:
    """Format the card as a Markdown table."""
    head = "| rule kind | rules | right instruction, sampled / greedy | generic "
    lines = [head + "| induction, per sample | in 32 | in 32, as reflected |", "|---|---|---|---|---|---|---|"]
    for kind, row in card.items():
        lines.append(
            f"| {kind} | {row['rules']} | {row['sampled']:.0%} / {row['greedy']:.0%} | {row['generic']:.1%} "
            f"| {row['induction']:.0%} | {row['induction_in_32']:.0%} | {row['induction_in_32_bagged']:.0%} |"
        )
    return "\n".join(lines)
