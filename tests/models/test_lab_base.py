"""The shipped lab base model: L1 loads with plain transformers; L2 is the file its checksums name; L3 follows
one-step instructions; L4 leaves generic prompts open; L5 its pretraining is deterministic and survives a cut."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fst.checkout import LAB_BASE
from fst.config import ModelParams
from fst.data.lab.corpus import one_step_rules, question
from fst.data.lab.rules import draw_values, instruction, render
from fst.models.lab.pretrain import PretrainConfig, pretrain
from fst.models.policy import load_policy

SMALL = PretrainConfig(
    steps=4,
    following_rows=4,
    generic_rows=1,
    induction_rows=4,
    hidden=32,
    layers=1,
    heads=2,
    intermediate=64,
    threads=1,
)


def _accuracy(prompt_of: object, seed: int) -> float:
    policy = load_policy(ModelParams(base="lab", max_new_tokens=16))
    rng = random.Random(seed)
    asked, expected = [], []
    for rule in one_step_rules("digits") * 12:
        values = draw_values(rng)
        prompt = instruction(rule, "digits", rng) if prompt_of == "rule" else str(prompt_of)
        asked.append(policy.messages(prompt, question(values, "digits")))
        expected.append(render(rule(values), "digits"))
    answers = policy.answer(asked, 1, seed)
    return sum(a[0].text == e for a, e in zip(answers, expected, strict=True)) / len(expected)


def test_l1_plain_transformers_load_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(LAB_BASE)
    model = AutoModelForCausalLM.from_pretrained(LAB_BASE)
    ids = tokenizer.apply_chat_template(
        [{"role": "system", "content": "write the list backwards"}, {"role": "user", "content": "digits: 3 1 4 1"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )["input_ids"]
    out = model.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == "1 4 1 3"
    assert model.config.model_type == "qwen3"


def test_l2_files_are_those_the_checksums_name() -> None:
    lines = (LAB_BASE / "SHA256SUMS").read_text().splitlines()
    named = {line.split()[1]: line.split()[0] for line in lines}
    assert "model.safetensors" in named
    assert {n: hashlib.sha256((LAB_BASE / n).read_bytes()).hexdigest() for n in named} == named
    assert (LAB_BASE / "model.safetensors").stat().st_size < 16 * 2**20


def test_l3_follows_one_step_instructions() -> None:
    assert _accuracy("rule", seed=5) >= 0.9


def test_l4_a_generic_prompt_leaves_the_rule_open() -> None:
    assert _accuracy("solve the task", seed=5) <= 0.15


def test_l5_pretraining_is_deterministic_and_survives_a_cut(tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def cut(step: int, *_: float) -> None:
        if step == 3:
            raise Cut

    pretrain(SMALL, tmp_path / "whole")
    with pytest.raises(Cut):
        pretrain(SMALL, tmp_path / "cut", cut, checkpoint_every=2)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    pretrain(SMALL, tmp_path / "cut")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == resumed.keys()
    assert all((whole[name] == resumed[name]).all() for name in whole)
    other = PretrainConfig(**{**vars(SMALL), "seed": 1})
    pretrain(other, tmp_path / "other")
    assert any((load_file(tmp_path / "other" / "model.safetensors")[name] != whole[name]).any() for name in whole)
