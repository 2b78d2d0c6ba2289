"""The router on natural text. R1 questions of its domain that it never saw are known, and go to their own domain; R2
those of other puzzles, of people, and in other languages are unknown, also where they are longer, shorter or about the
same things; R3 numbers make no text new; R4 it is calibrated on questions held out of its reference; R5 what there is
too little of is not called unknown; R6 a text of nothing is unknown, and a router of nothing knows nothing."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.serving.router import Route, Router

SETS = ("leg_counting", "family_relationships", "word_sorting", "syllogism", "calendar_arithmetic")
FOREIGN = (
    "I was charged twice for the same order, can you send me my money back?",
    "How many people live in the capital of France?",
    "Wie viele Beine haben drei Katzen und zwei Hunde zusammen?",
    "她的姐姐今年多大了",
    "Write a poem about three dogs, a cat and 12 spiders.",
    "def sort(words): return sorted(words)",
)


@cache
def texts(name: str) -> list[str]:
    return [problem.question for problem in load_domain(f"reasoning_gym/{name}", SplitSizes(200, 1, 1), 0).train]


def reference(name: str) -> list[str]:
    return texts(name)[:120]


def fresh(name: str) -> list[str]:
    return texts(name)[120:]


@pytest.mark.parametrize("name", SETS)
def test_r1_r2_one_set_is_known_and_others_are_not(name: str) -> None:
    router = Router({name: reference(name)})
    assert sum(route.known for route in router.routes(fresh(name))) >= 0.97 * len(fresh(name))
    for other in SETS:
        if other != name:
            known = [route.known for route in router.routes(fresh(other))]
            assert sum(known) <= 0.05 * len(known), other
    assert not any(route.known for route in router.routes(FOREIGN))


def test_r1_several_sets_keep_apart() -> None:
    router = Router({name: reference(name) for name in SETS})
    for name in SETS:
        found = [route.domain for route in router.routes(fresh(name)) if route.known]
        assert found.count(name) == len(found) >= 0.97 * len(fresh(name))


def test_r3_numbers_make_no_text_new() -> None:
    router = Router({"legs": reference("leg_counting")})
    text = fresh("leg_counting")[0]
    digits = "".join("987654321"[int(c)] if c.isdigit() and c != "9" else c for c in text)
    assert digits != text
    assert router.route(digits).novelty == router.route(text).novelty


def test_r4_the_reference_is_measured_as_live_questions_are() -> None:
    router = Router({name: reference(name) for name in ("word_sorting", "leg_counting")})
    live = [route.novelty for route in router.routes(fresh("word_sorting"))]
    assert np.mean(router.own["word_sorting"]) == pytest.approx(np.mean(live), rel=0.1)


def test_r5_what_there_is_little_of_is_known() -> None:
    router = Router({"one": ["sort these words: b, a"], "none": []})
    assert router.domains == ["one"]
    assert router.route("sort these words: b, a").known


def test_r6_nothing() -> None:
    assert Router({}).route("what?") == Route("", False, 1.0, 0.0)
    assert Router({"legs": reference("leg_counting")}).routes([]) == []
    assert not Router({"legs": reference("leg_counting")}).route("").known
