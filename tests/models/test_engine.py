"""The transformers engine, serving. N1 the same adapter has one name, another has another; N2 asks of several adapters
come back in order, each as it would alone; N3 an adapter that is loaded, unloaded and loaded again says the same; the
base is never touched; N4 what is no adapter, or one of another model, is refused, and what was loaded before still
answers; N5 an ask for an adapter that is not loaded is an error; N6 every token but the end is told as it is drawn,
to its own ask; N7 an ask with a seed has the same answer whoever else is in the batch."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from fst.config import ModelParams
from fst.errors import EngineError, ModelError
from fst.models.adapter import WEIGHTS, adapter_name, lora_config, save_adapter
from fst.models.policy import Policy, load_policy
from fst.models.sampler import Answer, Ask

QUESTIONS = ["digits: 3 1 4 2 5", "digits: 9 8 2 4 0", "letters: c a b d", "digits: 1 1 2 7 6 4"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters that change what the base says."""
    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = get_peft_model(load_policy(ModelParams(base="lab", max_new_tokens=8)).model, lora_config(4, 8))
        with torch.no_grad():
            for key, tensor in model.named_parameters():
                if "lora_B" in key:
                    tensor.normal_(0, 0.8)
        folders.append(tmp_path_factory.mktemp("adapters") / str(seed))
        save_adapter(model, folders[-1])
    return folders


@pytest.fixture
def policy() -> Policy:
    return load_policy(ModelParams(base="lab", max_new_tokens=12))


def asks(policy: Policy, adapter: str | None, temperature: float = 0.0, prompt: str = "reverse the list") -> list[Ask]:
    encoded = policy.encode([policy.messages(prompt, question) for question in QUESTIONS])
    return [Ask(tuple(ids), adapter, 12, temperature, seed) for seed, ids in enumerate(encoded)]


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def test_n1_a_name_is_its_adapters_content(policy: Policy, adapters: list[Path], tmp_path: Path) -> None:
    shutil.copytree(adapters[0], tmp_path / "copy")
    names = [adapter_name(folder) for folder in (*adapters, tmp_path / "copy")]
    assert names[0] == names[2] != names[1]
    assert policy.engine.load(adapters[0]) == policy.engine.load(tmp_path / "copy") == names[0]


@pytest.mark.slow
def test_n2_n3_each_ask_is_answered_by_its_own_adapter(policy: Policy, adapters: list[Path]) -> None:
    base = texts(policy.engine.serve(asks(policy, None)))
    assert base[:2] == ["5 2 4 1 3", "0 4 2 8 9"]
    names = [policy.engine.load(folder) for folder in adapters]
    alone = [texts(policy.engine.serve(asks(policy, name))) for name in names]
    assert alone[0] != alone[1] != base != alone[0]
    mixed = [ask for group in zip(*(asks(policy, name) for name in (None, *names)), strict=True) for ask in group]
    found = texts(policy.engine.serve(mixed))
    assert [found[0::3], found[1::3], found[2::3]] == [base, *alone]
    policy.engine.unload(names[0])
    policy.engine.unload(names[0])
    assert texts(policy.engine.serve(asks(policy, names[1]))) == alone[1]
    policy.engine.unload(names[1])
    assert texts(policy.engine.serve(asks(policy, None))) == base
    policy.engine.load(adapters[0])
    assert texts(policy.engine.serve(asks(policy, names[0]))) == alone[0]


def test_n4_what_does_not_fit_is_refused_and_nothing_else_is_lost(
    policy: Policy, adapters: list[Path], tmp_path: Path
) -> None:
    name = policy.engine.load(adapters[0])
    before = texts(policy.engine.serve(asks(policy, name)))
    with pytest.raises(ModelError, match=f"has no {WEIGHTS}"):
        policy.engine.load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(adapters[1], broken)
    (broken / WEIGHTS).write_bytes((broken / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ModelError, match="no adapter for this model"):
        policy.engine.load(broken)
    assert texts(policy.engine.serve(asks(policy, name))) == before


def test_n5_an_adapter_that_is_not_loaded_is_said(policy: Policy, adapters: list[Path]) -> None:
    name = adapter_name(adapters[0])
    with pytest.raises(EngineError, match=f"adapter {name} is not loaded"):
        policy.engine.serve(asks(policy, name))
    policy.engine.load(adapters[0])
    policy.engine.unload(name)
    with pytest.raises(EngineError, match="is not loaded"):
        policy.engine.serve(asks(policy, name))


def test_n6_tokens_are_told_as_they_are_drawn(policy: Policy, adapters: list[Path]) -> None:
    name = policy.engine.load(adapters[0])
    mixed = [ask for pair in zip(asks(policy, None), asks(policy, name), strict=True) for ask in pair]
    heard: dict[int, list[int]] = {i: [] for i in range(len(mixed))}
    answers = policy.engine.serve(mixed, lambda place, token: heard[place].append(token))
    spoken = [tuple(token for token in answer.tokens if token not in policy.end_ids) for answer in answers]
    assert [tuple(heard[i]) for i in range(len(mixed))] == spoken
    assert len({len(answer.tokens) for answer in answers}) > 1


def test_n7_a_seed_gives_the_same_answer_in_any_company(policy: Policy) -> None:
    wanted = asks(policy, None, temperature=1.0, prompt="solve the task")
    together = texts(policy.engine.serve(wanted))
    assert [texts(policy.engine.serve([ask]))[0] for ask in wanted] == together
    assert texts(policy.engine.serve(list(reversed(wanted))))[::-1] == together
    others = [dataclasses.replace(ask, seed=ask.seed + 100) for ask in wanted]
    assert texts(policy.engine.serve(others)) != together
