"""The plan of a run: what it says, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fst.config import Params, params_from_dict
from fst.errors import ConfigError
from fst.method.run import plan
from fst.method.run.plan import GIB, plan_run
from fst.models.memory import Footprint

LARGE = Footprint(10**9, 10**7, 10**6, 10**5, 1024, 150_000)


def planned(monkeypatch: pytest.MonkeyPatch, room: float, **sections: Any) -> plan.Plan:
    monkeypatch.setattr(plan, "footprint", lambda *_: LARGE)
    monkeypatch.setattr(plan, "device_bytes", lambda _: int(room * GIB))
    model = {"device": "cpu", "max_new_tokens": 128, **sections.pop("model", {})}
    return plan_run(params_from_dict({"model": model, **sections}), 100)


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(monkeypatch, 64)
    assert found.weights == 4 * 10**9 + 16 * 10**7
    by_name = {phase.name: phase.bytes for phase in found.phases}
    assert by_name["training"] == 16384 * 10**6, "128 rows of 292 tokens are cut to slow.micro_tokens"
    row = (100 + 64 + 128) * 10**5 + 6 * 4 * 150_000
    assert by_name["answers"] == 4 * GIB // row * row
    assert found.rollouts == {"training": 6 * 16 * 8, "fast": 400, "evaluation": 2 * 4 * 200}
    assert found.tokens == (768 + 400 + 1600) * 128
    assert found.peak == found.weights + by_name["training"]
    found.check()


@pytest.mark.parametrize(("every", "evaluations"), [(1, 2), (2, 1), (3, 1), (8, 1)])
def test_a_cycle_has_the_evaluations_that_its_rounds_end_in(
    monkeypatch: pytest.MonkeyPatch, every: int, evaluations: int
) -> None:
    """The most that one of them may have: every eighth round is the end of one cycle in four."""
    found = planned(monkeypatch, 64, evaluate={"every": every})
    assert found.rollouts["evaluation"] == evaluations * 4 * 200


def test_what_does_not_fit_is_refused_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"^slow\.micro_tokens: training takes about 15\.26 GiB .* cpu has 16\.00 GiB"
    ):
        planned(monkeypatch, 16).check()
    planned(monkeypatch, 16, slow={"micro_tokens": 4096}).check()
    with pytest.raises(ConfigError, match=r"^model\.cache_gb: answers take about"):
        planned(monkeypatch, 6, slow={"micro_tokens": 512}).check()
    with pytest.raises(ConfigError, match=r"^model\.base: weights, adapter and optimizer take 3\.87 GiB"):
        planned(monkeypatch, 3).check()


def test_a_short_step_takes_what_its_rows_take(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(monkeypatch, 64, slow={"problems_per_step": 1, "group_size": 4})
    assert {p.name: p.bytes for p in found.phases}["training"] == 4 * 292 * 10**6


def test_a_server_beside_the_training_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "device_of", lambda _: torch.device("cuda"))
    mine = {"model": {"engine": "vllm"}, "vllm": {"arguments": ["--gpu-memory-utilization", "0.45", "--x", "y"]}}
    assert planned(monkeypatch, 100, **mine).room == 55 * GIB
    assert planned(monkeypatch, 100, model={"engine": "vllm"}).room == 10 * GIB
    assert planned(monkeypatch, 100, model={"engine": "vllm"}, vllm={"url": "http://elsewhere"}).room == 100 * GIB
    assert planned(monkeypatch, 100).room == 100 * GIB


def test_a_server_that_sleeps_leaves_its_share_to_the_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "device_of", lambda _: torch.device("cuda"))
    small: dict[str, Any] = {"model": {"engine": "vllm"}, "vllm": {"arguments": ["--gpu-memory-utilization=0.5"]}}
    found = planned(monkeypatch, 30, **small)
    assert {phase.name: phase.left for phase in found.phases} == {
        "answers": 0,
        "training": 15 * GIB - plan.ASLEEP,
        "scoring": 0,
    }
    found.check()
    awake = {**small, "vllm": {**small["vllm"], "sleep": False}}
    with pytest.raises(ConfigError, match=r"^slow\.micro_tokens: .* cuda has 15\.00 GiB"):
        planned(monkeypatch, 30, **awake).check()


def test_the_lab_fits_anywhere() -> None:
    found = plan_run(Params(), 30)
    assert found.peak < 2 * GIB
    assert any(line.startswith("peak") for line in found.lines())


@pytest.mark.parametrize(
    ("fast", "said"),
    [
        ({}, []),
        (
            {"anchors": 192, "budget": 960},
            ["scores 4 prompts again, on 130 of 192 anchors, which leaves rollouts for 3 proposals (fast.budget)"],
        ),
        (
            {"anchors": 16, "budget": 60},
            ["scores 4 prompts again, on 8 of 16 anchors, which leaves rollouts for 1 proposal (fast.budget)"],
        ),
    ],
)
def test_the_plan_says_what_a_fast_round_has_rollouts_for(fast: dict[str, int], said: list[str]) -> None:
    found = plan_run(params_from_dict({"fast": fast}), 30)
    assert [line.removeprefix("fast round  ") for line in found.lines() if line.startswith("fast round")] == said
