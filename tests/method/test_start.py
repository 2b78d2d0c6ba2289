"""Runs that build on a bundle. B1 the weights begin as the bundle's adapter, in every arm, and the arm without slow
weights keeps them; B2 a domain that the bundle serves begins with its prompts, another one with the seed prompt; B3
KL is measured against the base, not against the start; B4 the key of a start is its adapter and the prompts for the
domain, and nothing else; B5 a run does not go on from another start; B6 an adapter names its base as it was named, the
lab's by a path that is the same on every machine, and PEFT alone loads both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from fst.checkout import LAB_BASE
from fst.config import Params, params_from_dict
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.errors import RecordError
from fst.method.learner import Learner
from fst.method.loop import rounds
from fst.method.run.runner import Job, prepare, run_rounds
from fst.method.run.start import first_population, start_key
from fst.models.adapter import CONFIG, WEIGHTS, adapter_state, base_name
from fst.runs.progress import Progress
from fst.store.bundle import Bundle, write_bundle
from fst.types import Arm, Prompt
from support.slow_toys import verify

SPEC = "lab/reverse"
SMALL = {
    "prepare": {"train": 16, "validation": 4, "test": 4},
    "slow": {"problems_per_step": 2, "group_size": 4, "lora_rank": 4, "warmup_steps": 0},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16},
    "reflector": {"proposals": 4, "max_new_tokens": 4},
    "loop": {"cycles": 1, "steps_per_cycle": 1},
    "evaluate": {"samples": 1, "kl_problems": 4},
}


def params_for(model: Path) -> Params:
    return params_from_dict({**SMALL, "model": {"base": str(model), "max_new_tokens": 4, "threads": 1}})


def learner_of(job: Job) -> Learner:
    return prepare(job, Progress(1, 1, job.arm, job.domain, quiet=True))


def prompts(*texts: str) -> dict[str, Any]:
    return {"prompts": [{**Prompt(text).as_dict(), "score": None, "problems": {}} for text in texts], "ancestry": []}


def bundle(folder: Path, adapter: Path, served: dict[str, tuple[str, dict[str, Any]]], **facts: Any) -> Bundle:
    domains = {name: {"spec": spec, "data_sha256": "0", "prompt": "0"} for name, (spec, _) in served.items()}
    manifest = {
        "schema": 1,
        "base": {"name": "tiny", "sha256": "0"},
        "start": None,
        "domains": domains,
        "run": None,
        "params": {},
        "versions": {},
        "metrics": {},
        "candidate": None,
        "gate": None,
        "provenance": None,
        **facts,
    }
    documents = {"prompts.json": {name: p for name, (_, p) in served.items()}, "evaluation.json": {}}
    return write_bundle(folder, manifest, documents, adapter)


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """An adapter that moves the model visibly."""
    learner = learner_of(Job("rl", SPEC, 0, tmp_path / "made", params_for(tiny_model_dir)))
    learner.slow.save(tmp_path / "adapter")
    learner.books.close()
    (tmp_path / "adapter" / "trainer.pt").unlink()
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    generator = torch.Generator().manual_seed(3)
    save_file(
        {name: t + 0.2 * torch.randn(t.shape, generator=generator) for name, t in tensors.items()},
        tmp_path / "adapter" / WEIGHTS,
    )
    return tmp_path / "adapter"


@pytest.fixture
def start(tmp_path: Path, adapter: Path) -> Bundle:
    served = {"mine": (SPEC, prompts("turn it around", "backwards")), "other": ("lab/sort_asc", prompts("sort it"))}
    return bundle(tmp_path / "start", adapter, served)


def same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["fst", "rl", "gepa"])
def test_b1_b3_weights_begin_as_the_start(tiny_model_dir: Path, tmp_path: Path, start: Bundle, arm: Arm) -> None:
    job = Job(arm, SPEC, 0, tmp_path / arm, params_for(tiny_model_dir), start=start.folder)
    learner = learner_of(job)
    assert start.adapter is not None
    expected = load_file(start.adapter / WEIGHTS)
    assert same(adapter_state(learner.policy.model), expected)
    assert learner.measure(learner.population.best, learner.domain.test).kl > 1e-4
    learner.books.close()
    job = Job(arm, SPEC, 0, tmp_path / f"{arm}-run", params_for(tiny_model_dir), start=start.folder)
    learner = learner_of(job)
    if arm != "gepa":
        learner.slow.verify = verify  # gives an untrained model right and wrong answers, so that a step is taken
    for _ in rounds(learner):
        state = adapter_state(learner.policy.model)
    learner.books.close()
    assert same(state, expected) == (arm == "gepa")


def test_b1_without_a_start_the_weights_are_the_base(tiny_model_dir: Path, tmp_path: Path) -> None:
    learner = learner_of(Job("fst", SPEC, 0, tmp_path / "run", params_for(tiny_model_dir)))
    assert learner.measure(learner.population.best, learner.domain.test).kl == 0.0
    assert not learner.moved
    learner.books.close()


def test_b2_prompts_come_from_the_start_where_it_serves_the_domain(start: Bundle) -> None:
    params = Params()
    served, other = (load_domain(spec, SplitSizes(1, 1, 1), 0) for spec in (SPEC, "lab/sort_desc"))
    assert [p.text for p in first_population(start, served, params).prompts] == ["turn it around", "backwards"]
    assert [p.text for p in first_population(start, other, params).prompts] == [params.loop.seed_prompt]
    assert [p.text for p in first_population(None, served, params).prompts] == [params.loop.seed_prompt]


def test_b4_the_key_is_what_a_run_takes_over(tmp_path: Path, adapter: Path, start: Bundle) -> None:
    served = {"mine": (SPEC, prompts("turn it around", "backwards"))}
    key = start_key(start, SPEC)
    measured_again = bundle(tmp_path / "again", adapter, served, metrics={"mine": {"reward": 1.0}})
    assert measured_again.id != start.id
    assert start_key(measured_again, SPEC) == key
    other_prompt = bundle(tmp_path / "prompt", adapter, {"mine": (SPEC, prompts("turn it"))})
    assert start_key(other_prompt, SPEC) != key
    assert start_key(other_prompt, "lab/drop_max") == start_key(start, "lab/drop_max")
    moved = {name: t + 1 for name, t in load_file(adapter / WEIGHTS).items()}
    save_file(moved, adapter / WEIGHTS)
    assert start_key(bundle(tmp_path / "weights", adapter, served), SPEC) != key
    assert start_key(None, SPEC) is None


@pytest.mark.slow
def test_b5_a_run_goes_on_from_its_own_start_only(tiny_model_dir: Path, tmp_path: Path, start: Bundle) -> None:
    params = params_for(tiny_model_dir)
    first = Job("fst", SPEC, 0, tmp_path / "run", params, start=start.folder)
    next(run_rounds(first, quiet=True))
    with pytest.raises(RecordError, match="was made with another 'start'"):
        next(run_rounds(Job("fst", SPEC, 0, tmp_path / "run", params), resume=True, quiet=True))
    resumed = next(run_rounds(first, resume=True, quiet=True))
    assert resumed.round == 2


def test_b6_peft_alone_loads_the_adapter_with_its_base(adapter: Path, tiny_model_dir: Path) -> None:
    assert json.loads((adapter / CONFIG).read_text())["base_model_name_or_path"] == str(tiny_model_dir)
    model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    assert same(adapter_state(model), load_file(adapter / WEIGHTS))


def test_b6_the_base_is_named_as_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert base_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert base_name("models/mine") == "models/mine"
    assert base_name(str(LAB_BASE)) == "models/lab_base", "the same on every machine"
    assert base_name(str(tmp_path / "fast-slow-training" / "gguf" / "abc-1")) is None
