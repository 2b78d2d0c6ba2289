"""A release of the lab adapts to a new domain while one tenant in five tells every answer backwards (`fst bench poison
--train`). Q1 its false problems do not stop the adaptation: the domain is released by the fast rounds alone; Q2 what is
released follows the truth: it does nearly as well on true problems as the rule in plain words, and far better than
before; Q3 the gate names the tenant, and nobody else, and its problems do not count against adapt.enough; Q4 nothing is
left behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fst.bench.poisoned import adapted, make_site, of_site, poisoned
from fst.config import params_from_dict
from fst.errors import ConfigError

pytestmark = pytest.mark.slow

SMALL = {
    "prepare": {"train": 64, "validation": 32, "test": 64},
    "train": {"arm": "gepa"},
    "loop": {"cycles": 1},
    "fast": {"prompts": 2},
    "reflector": {"proposals": 64},
    "evaluate": {"samples": 2, "kl_problems": 8},
    "gate": {"resamples": 200},
    "drift": {"resamples": 100},
    "model": {"threads": 1},
}


def test_q1_q2_q3_one_liar_in_five_neither_passes_nor_stops(tmp_path: Path) -> None:
    params, site = of_site(params_from_dict(SMALL)), tmp_path / "site"
    before, plain = make_site(params, site)
    found = adapted(params, site, share=0.2, seed=0, scored=300)
    assert found.problems == 300
    assert 0.15 < found.false < 0.25
    assert found.alert.startswith("a new domain ")
    assert found.left_out == (), "no release has right answers yet"
    assert found.released
    (fast,) = found.candidates
    assert fast.how == "fast"
    assert found.accuracy > max(before + 0.6, plain - 0.15)
    (sentence,) = fast.named
    assert re.search(r"the feedback of tenant-\w+ contradicts the others'", sentence)
    assert fast.sentence.endswith("the gate names mallory")
    assert fast.reward > found.accuracy - 0.1, "and not a fifth less"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.base: there does not know the lab's rules"):
        next(poisoned(params_from_dict({"model": {"base": "there"}}), 1))
