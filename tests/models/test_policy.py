"""Loading any causal LM with a chat template, and saying what to do when it cannot be done. The invariants:

l1  a prompt goes into the system turn, or before the question where the template has no system role
l2  a model that cannot be used is a ModelError with its remedy
l3  any architecture takes a step of the slow weights, and can be switched back to its frozen base
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from fst.config import ModelParams
from fst.errors import ModelError
from fst.models.policy import Policy, load_policy
from support.slow_toys import PROBLEMS, Watched, drawn, population

RAISES = "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('System role not supported') }}{%- endif -%}"
DROPS = "{%- set messages = messages | rejectattr('role', 'equalto', 'system') | list -%}"


def rewritten(tiny: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """A copy of the tiny model with another chat template; an empty one is left out."""
    shutil.copytree(tiny, folder)
    template = folder / "chat_template.jinja"
    text = change(template.read_text(encoding="utf-8"))
    template.write_text(text, encoding="utf-8") if text else template.unlink()
    return folder


def with_architecture(tiny: Path, folder: Path, model: PreTrainedModel) -> Path:
    """A model directory of another architecture with the tiny model's tokenizer."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder / name)
    return folder


def llama(vocabulary: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def gpt2(vocabulary: int) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=128, n_embd=32, n_layer=1, n_head=2, pad_token_id=0, eos_token_id=2,
        bos_token_id=2,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def test_l1_with_a_system_role(policy: Policy) -> None:
    assert policy.has_system_role
    assert policy.messages("be brief", "why") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "why"},
    ]
    assert policy.messages("", "why") == [{"role": "user", "content": "why"}]
    read = policy.encode([policy.messages("add one", "1 2"), policy.messages("", "1 2")])
    spoken = [policy.tokenizer.decode(ids) for ids in read]
    assert [s.replace(" ", "") for s in spoken] == [
        "<|system|>addone<|user|>12<|assistant|>",
        "<|user|>12<|assistant|>",
    ]


@pytest.mark.parametrize("prefix", [RAISES, DROPS], ids=["raises", "drops"])
def test_l1_without_one_the_prompt_stands_before_the_question(
    tiny_model_dir: Path, tmp_path: Path, prefix: str
) -> None:
    folder = rewritten(tiny_model_dir, tmp_path / "model", lambda template: prefix + template)
    policy = load_policy(ModelParams(base=str(folder), max_new_tokens=4))
    assert not policy.has_system_role
    assert policy.messages("be brief", "why") == [{"role": "user", "content": "be brief\n\nwhy"}]
    assert policy.messages("", "why") == [{"role": "user", "content": "why"}]
    spoken = policy.tokenizer.decode(policy.encode([policy.messages("add one", "1 2")])[0])
    assert spoken.split() == ["<|user|>", "add", "one", "1", "2<|assistant|>"]


def test_l2_no_chat_template(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = rewritten(tiny_model_dir, tmp_path / "model", lambda template: "")
    with pytest.raises(
        ModelError, match=r"has no chat template; pick an instruction-tuned model, or add chat_template"
    ):
        load_policy(ModelParams(base=str(folder), max_new_tokens=4))


@pytest.mark.parametrize("kept", [(), ("config.json",), ("config.json", "tokenizer.json", "tokenizer_config.json")])
def test_l2_a_directory_without_a_model(tiny_model_dir: Path, tmp_path: Path, kept: tuple[str, ...]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in kept:
        shutil.copy(tiny_model_dir / name, folder / name)
    with pytest.raises(
        ModelError, match=r"(?s)cannot load model .*\nGive a directory with config.json, model.safetensors"
    ):
        load_policy(ModelParams(base=str(folder), max_new_tokens=4))


def test_l2_no_such_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"cannot load model '/.*nowhere'") as caught:
        load_policy(ModelParams(base=f"{tmp_path}/nowhere", max_new_tokens=4))
    assert isinstance(caught.value.__cause__, OSError | ValueError)


def test_l2_weights_that_are_damaged(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load model"):
        load_policy(ModelParams(base=str(folder), max_new_tokens=4))


def test_l2_the_labs_weights_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fst.models.reader.LAB_BASE", tmp_path / "lab_base")
    with pytest.raises(ModelError, match=r"lab_base; build it with `fst lab-base build`"):
        load_policy(ModelParams(base="lab", max_new_tokens=4))


def test_l2_lab_is_the_directory_of_the_lab(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    monkeypatch.setattr("fst.models.reader.LAB_BASE", tiny_model_dir)
    lab = load_policy(ModelParams(base="lab", max_new_tokens=4))
    assert (lab.name, lab.max_new_tokens, lab.model.training) == ("lab", 4, False)
    assert torch.equal(lab.model.lm_head.weight, policy.model.lm_head.weight)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_l3_other_architectures_train(
    tiny_model_dir: Path, tmp_path: Path, policy: Policy, build: Callable[[int], PreTrainedModel]
) -> None:
    torch.manual_seed(0)
    folder = with_architecture(tiny_model_dir, tmp_path / "model", build(len(policy.tokenizer)))
    other = load_policy(ModelParams(base=str(folder), max_new_tokens=4))
    base = {name: tensor.clone() for name, tensor in other.model.state_dict().items()}
    ids = torch.tensor(other.encode([other.messages("add one", "1 2")]))
    with torch.no_grad():
        before = other.model(input_ids=ids).logits
    slow = Watched(other, tmp_path / "work", warmup_steps=0, learning_rate=1e-2)
    slow.script = [drawn(other, [4] * 12)]
    untrained = slow.adapter()
    result, _ = slow.train_step(population(2), PROBLEMS[:3])
    assert result.kept_groups == 3
    assert result.grad_norm > 0
    assert any(not torch.equal(tensor, untrained[name]) for name, tensor in slow.adapter().items())
    with torch.no_grad():
        assert not torch.equal(other.model(input_ids=ids).logits, before)
        with other.frozen_base():
            assert torch.equal(other.model(input_ids=ids).logits, before)
    for name, parameter in other.model.named_parameters():
        if "lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(parameter, base[plain]), name
