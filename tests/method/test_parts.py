"""The parts of sequential arms. Q1 to Q4 as numbered in fst/method/parts.py, on a run whose rounds spend planted
amounts; Q5 a sequential run counts no more than `fst` may, trains under the prompt that it is said to, and goes on
after a kill to the same end; Q6 what is planned is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.config import Params, load_params, params_from_dict
from fst.method.loop import ROUNDS
from fst.method.parts import Parts, parts_of, planned
from fst.method.run.runner import Job, plan_of, problems_of, run_job, run_rounds, summary_of
from fst.runs.view import load_run
from fst.types import ARMS, SEQUENTIAL, Arm, Budget

ROOT = Path(__file__).resolve().parents[2]
LAB = {"loop": {"rollout_budget": 12_288}}


def test_q2_shares_are_those_of_a_cycle_of_fst() -> None:
    params = params_from_dict({**LAB, "fast": {"budget": 400}})
    assert (params.rollouts_per_step, params.loop.steps_per_cycle) == (128, 6)
    found = parts_of("gepa_rl", params)
    assert (found.fast, found.slow, found.fast_rounds) == (4_208, 8_080, 11), "400 and 768 of 1,168"
    assert parts_of("rl_gepa", params) == Parts("rl_gepa", 12_288, 8_080, 4_208, 11)


@pytest.mark.parametrize("arm", ARMS)
def test_q1_only_a_sequential_arm_has_two_parts(arm: Arm) -> None:
    parts = parts_of(arm, params_from_dict(LAB))
    assert len(ROUNDS[arm]) == 1 + (arm in SEQUENTIAL)
    assert parts.part(Budget(), 0) == 0
    assert parts.part(Budget(train=12_288, fast=12_288), 99) == (arm in SEQUENTIAL)
    assert bool(parts.says()) == (arm in SEQUENTIAL)


def test_q6_no_cycle_comes_after_the_last_that_is_planned() -> None:
    """Twelve cycles of 1,168 rollouts: `rl` takes 109 steps of 128 from them, which are 18 times 6 and one."""
    params = params_from_dict({"loop": {"cycles": 12}})
    assert {arm: planned(arm, params) for arm in ("fst", "gepa", "rl", "rl_gepa", "gepa_rl")} == {
        "fst": (72, 12),
        "gepa": (72, 12),
        "rl": (109, 19),
        "rl_gepa": (72, 24),
        "gepa_rl": (72, 24),
    }


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEQUENTIAL), st.integers(200, 20_000), st.lists(st.floats(0, 1), min_size=60, max_size=60))
def test_q2_q3_q4_parts_follow_each_other_within_the_budget(arm: Arm, limit: int, shares: list[float]) -> None:
    """A fast round spends a drawn share of what it may, a slow one 768."""
    params = params_from_dict({"loop": {"rollout_budget": limit}, "fast": {"budget": 400}})
    parts, spent, fast_rounds, order = parts_of(arm, params), Budget(), 0, []
    while not parts.over(spent, fast_rounds):
        part = parts.part(spent, fast_rounds)
        purpose = ROUNDS[arm][part][0]
        order.append(purpose)
        if purpose == "fast":
            room = parts.left(spent)
            assert 0 < room <= (parts.fast - spent.fast if arm == "gepa_rl" else limit - spent.learning)
            spent.add("fast", int(room * shares[fast_rounds]))
            fast_rounds += 1
        else:
            spent.add("train", 768)
    assert order == sorted(order, reverse=arm == "rl_gepa"), "all of one kind before the other"
    assert spent.learning < limit + 768
    assert fast_rounds <= parts.fast_rounds
    if arm == "gepa_rl":
        assert spent.fast <= parts.fast
        assert spent.learning >= limit, "what the fast rounds leave goes to RL"
    else:
        assert spent.train >= parts.slow


def small(**loop: int) -> Params:
    return load_params(
        ROOT / "params.yaml",
        [
            *("prepare.train=64", "prepare.validation=8", "prepare.test=8", "slow.problems_per_step=2"),
            *("slow.group_size=4", "fast.prompts=2", "fast.anchors=8", "fast.minibatch=4", "fast.budget=48"),
            *("fast.patience=1", "loop.steps_per_cycle=2", "loop.cycles=2", "reflector.proposals=16"),
            *("evaluate.samples=1", "evaluate.kl_problems=4", *(f"loop.{k}={v}" for k, v in loop.items())),
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("arm", SEQUENTIAL)
def test_q5_a_sequential_run_keeps_its_word_and_goes_on(arm: Arm, tmp_path: Path) -> None:
    """Cut off after the first round of its second part."""
    params, spec = small(), "lab/sort_desc+drop_last"
    limit = params.rollout_budget
    assert limit == 2 * (48 + 16)
    whole = run_job(Job(arm, spec, 0, tmp_path / "whole", params), quiet=True)
    view, lines = load_run(whole), [json.loads(line) for line in (whole / "rollouts.jsonl").read_text().splitlines()]
    kinds = [event["channel"] for event in view.rounds]
    assert kinds == sorted(kinds, reverse=arm == "rl_gepa")
    assert set(kinds) == {"fast", "slow"}
    spent = summary_of(whole)["rollouts"]
    assert spent["train"] + spent["fast"] < limit + 16
    under = {line["prompt_id"] for line in lines if line["channel"] == "train"}
    best = next(e["population"][0] for e in reversed(view.rounds) if e["channel"] == "fast")
    assert len(under) == 1
    assert (under == {best}) == (arm == "gepa_rl"), "the best prompt alone, or the seed prompt"

    if arm == "rl_gepa":
        return  # what is under way follows from the books, alike in both
    cut = Job(arm, spec, 0, tmp_path / "cut", params)
    rounds = run_rounds(cut, quiet=True)
    for learner in rounds:
        if learner.part == 1:
            next(rounds)
            break
    rounds.close()
    assert not summary_of(cut.folder)
    run_job(cut, resume=True, quiet=True)
    for key in ("adapter_sha256", "prompts", "accuracy", "rollouts"):
        assert summary_of(cut.folder)[key] == summary_of(whole)[key]


def test_q6_the_plan_says_what_goes_where() -> None:
    job = Job("gepa_rl", "lab/reverse", 0, Path("unused"), small())
    says = plan_of(job, problems_of(job)).lines()[-1]
    assert says == "rollouts    96 of fast rounds, 2 at most, then the rest of RL"
    other = Job("fst", "lab/reverse", 0, Path("unused"), small())
    assert not any("of RL" in line for line in plan_of(other, problems_of(other)).lines())
