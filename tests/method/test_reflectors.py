"""The reflector that a run gets: what `auto` and keys left out come to, and when proposals are screened."""

from __future__ import annotations

from typing import Any

import pytest

from fst.config import Params, params_from_dict
from fst.data.domains import load_domain
from fst.data.scoring import exact, numeric
from fst.data.types import Domain, Problem, Score, SplitSizes, Verifier
from fst.method.fast.reflectors import answer_alone_counts, build_reflector
from fst.models.endpoint import EndpointReflector
from fst.models.policy import Policy
from fst.models.reflector import CallableReflector, PolicyReflector

PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def domain(verify: Verifier, answer: str = "42") -> Domain:
    problems = tuple(Problem(str(i), "toy", f"{i}?", answer) for i in range(3))
    return Domain("toy", problems, problems, problems, verify)


def raising(problem: Problem, response: str) -> Score:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("verify", "answer", "counts"),
    [
        (exact(), "42", True),
        (numeric(), "42", False),
        (lambda p, r: Score(float(r == "a proof"), ""), "any correct solution", False),
        (lambda p, r: Score(1.0 if r == p.answer else 0.07, ""), "42", True),
        (lambda p, r: Score(0.5, ""), "42", False),
        (raising, "42", False),
        (numeric(), "forty-two", False),
    ],
    ids=["whole text", "anywhere", "no reference", "partial credit", "half", "raises", "refuses its own answer"],
)
def test_the_answer_alone_counts_where_nothing_around_it_does(verify: Verifier, answer: str, counts: bool) -> None:
    assert answer_alone_counts(domain(verify, answer)) is counts


def test_the_lab_rewards_the_answer_alone() -> None:
    assert answer_alone_counts(load_domain("lab/sort_desc", SplitSizes(8, 2, 2), 0))


WHOLE = exact()


def built(policy: Policy, verify: Verifier = WHOLE, **reflector: Any) -> PolicyReflector:
    params: Params = params_from_dict({"reflector": reflector, "fast": {"max_prompt_tokens": 40}})
    found = build_reflector(policy, params, domain(verify))
    assert isinstance(found, PolicyReflector)
    return found


def test_auto_is_pairs_for_a_base_of_the_lab_and_feedback_for_others(policy: Policy) -> None:
    lab = built(policy)
    assert (lab.style, lab.proposals, lab.max_new_tokens, lab.screens) == ("pairs", 128, 48, True)
    assert built(policy, numeric()).screens, "pairs are always screened"
    assert built(policy, style="feedback").style == "feedback"
    policy.tokenizer.chat_template = PLAIN
    other = built(policy)
    assert (other.style, other.proposals, other.max_new_tokens, other.screens) == ("feedback", 4, 40 + 128, True)
    assert built(policy, style="pairs").proposals == 128
    assert not built(policy, numeric()).screens
    asked = built(policy, proposals=7, max_new_tokens=9, temperature=0.5, weights="current")
    assert (asked.proposals, asked.max_new_tokens, asked.temperature, asked.weights) == (7, 9, 0.5, "current")
    assert asked.limit is not None
    assert (asked.limit.tokens, asked.limit.count("sort")) == (40, policy.count_tokens("sort"))


def test_an_endpoint_gets_all_its_settings(policy: Policy) -> None:
    settings = {"endpoint_model": "toy", "max_new_tokens": 99, "input_price": 2.0, "output_price": 8.0}
    params = params_from_dict({"reflector": {"kind": "endpoint", **settings}, "fast": {"max_prompt_tokens": 40}})
    found = build_reflector(policy, params, domain(exact()))
    assert isinstance(found, CallableReflector)
    assert found.limit is not None
    assert found.limit.tokens == 40
    assert isinstance(found.call, EndpointReflector)
    assert (found.call.limit, found.call.params.output_price) == (99, 8.0)
