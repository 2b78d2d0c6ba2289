"""GGUF files as base models. The invariants:

g1  the folder loads like any other and computes what the file's model computes; nothing in it says it is quantised
g2  an answer ends at the token of the chat template, and at all that the file declares; every control token is one
g3  what is lost is said
g4  a folder that exists is refused, and a failed import leaves nothing behind
g5  model.base may name the file: imported once for its content, recorded by its checksum
g6  a file that is none, or not there, is a ModelError with its remedy; without the package, the extra is named
g7  a real model answers as it does elsewhere
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from fst.cli import main
from fst.config import ModelParams
from fst.errors import ConfigError, ModelError
from fst.files import file_sha256
from fst.models.gguf import import_gguf, imported
from fst.models.memory import footprint
from fst.models.policy import load_policy, load_reader
from fst.runs.origin import base_sha256
from support.gguf_toys import MODELS, TEMPLATE, TOKENS, toy, write

END, ENDOFTEXT, START = (TOKENS.index(token) for token in ("<|im_end|>", "<|endoftext|>", "<|im_start|>"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy files' models as folders, by architecture."""
    place = tmp_path_factory.mktemp("gguf")
    for name in MODELS:
        import_gguf(write(place / f"{name}.gguf", name), place / name)
    return {name: place / name for name in MODELS}


@pytest.fixture(params=MODELS)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(folders: dict[str, Path], architecture: str) -> Path:
    return folders[architecture]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache of imported files, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fast-slow-training" / "gguf"


def test_g1_the_folder_computes_what_the_file_does(folder: Path, architecture: str, tmp_path: Path) -> None:
    ids = torch.tensor([[START, 60, 70, 80, END]])
    policy = load_policy(ModelParams(base=str(folder)))
    with torch.no_grad():
        torch.testing.assert_close(policy.model(input_ids=ids).logits, toy(architecture)(input_ids=ids).logits)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["dtype"], config["tie_word_embeddings"]) == ("float32", False)
    policy.model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").stat().st_size > 4 * sum(
        p.numel() for p in toy(architecture).parameters()
    )


def test_g1_quantised_weights_come_close(tmp_path: Path) -> None:
    import_gguf(write(tmp_path / "toy.gguf", quantised=True), tmp_path / "model", "bfloat16")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    name = "model.layers.1.self_attn.q_proj.weight"
    wanted = toy().state_dict()[name]
    assert 0 < (found[name].float() - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_g2_an_answer_ends_where_the_template_and_the_file_say(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert (tokenizer.unk_token, tokenizer.pad_token, tokenizer.model_max_length) == (None, "<|im_end|>", 256)
    assert AutoConfig.from_pretrained(folder).eos_token_id == [END, ENDOFTEXT]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [END, ENDOFTEXT]
    assert load_policy(ModelParams(base=str(folder))).end_ids == tuple(sorted((END, ENDOFTEXT)))


def test_g2_every_control_token_is_one_token_and_none_is_new(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(TOKENS)
    assert tokenizer("<think>abcd</think><|im_end|>")["input_ids"] == [
        TOKENS.index(token) for token in ("<think>", "ab", "cd", "</think>", "<|im_end|>")
    ]
    assert tokenizer.decode([TOKENS.index("<think>"), END], skip_special_tokens=True) == "<think>"
    assert tokenizer.chat_template == TEMPLATE
    spoken = tokenizer.decode(
        load_reader(ModelParams(base=str(folder))).encode([[{"role": "user", "content": "a"}]])[0]
    )
    assert spoken == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_g2_other_files_beside_it_are_not_read(folders: dict[str, Path], tmp_path: Path, tiny_model_dir: Path) -> None:
    for file in tiny_model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    import_gguf(write(tmp_path / "toy.gguf"), tmp_path / "model")
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        assert file_sha256(tmp_path / "model" / name) == file_sha256(folders["llama"] / name), name


def test_g3_what_is_lost_is_said(tmp_path: Path) -> None:
    assert import_gguf(write(tmp_path / "plain.gguf"), tmp_path / "plain") == [
        "the file only names the tokenizer's rule for splitting text (smollm): transformers takes the one it knows for "
        "the architecture, so a text may be split into other tokens than with the original"
    ]
    further = {"tokenizer__chat_template__tool_use": "x", "llama__rope__scaling__factor": 4.0}
    steps: list[str] = []
    file = write(tmp_path / "poor.gguf", quantised=True, template=None, **further)
    lost = import_gguf(file, tmp_path / "poor", "float32", steps.append)
    assert [sentence.rpartition(":")[0] for sentence in lost if "splitting" not in sentence] == [
        "the weights were quantised (tensors: 14 as Q8_0)",
        "the file has no chat template",
        "of the chat templates only the default one is kept, without",
        "the scaling of positions for long texts is left out (llama.rope.scaling.factor)",
    ]
    assert [step.split()[0] for step in steps] == ["reading", "making", "de-quantising", "writing"]
    facts = json.loads((tmp_path / "poor" / "gguf.json").read_text())
    assert facts == {"file": "poor.gguf", "sha256": file_sha256(file), "dtype": "float32", "lost": lost}
    with pytest.raises(ModelError, match="has no chat template"):
        load_reader(ModelParams(base=str(tmp_path / "poor")))


def test_g4_a_folder_that_exists_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "toy.gguf")
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"model exists already; name a new folder"):
        import_gguf(file, tmp_path / "model")
    assert main(["model", "import", str(file), str(tmp_path / "model")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert list((tmp_path / "model").iterdir()) == []


def test_g4_a_failed_import_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    file = write(tmp_path / "toy.gguf")
    monkeypatch.setattr("fst.files.sync_folder", full)
    with pytest.raises(OSError, match="no space"):
        import_gguf(file, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.gguf"]


def test_g4_the_command_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, model = write(tmp_path / "toy.gguf", quantised=True), tmp_path / "model"
    assert main(["model", "import", str(file), str(model), "--dtype", "float16"]) == 0
    said = capsys.readouterr()
    first, *lost = said.out.splitlines()
    assert first == f"{model} is ready: --model {model}"
    assert lost[0].startswith("not as in the original: the weights were quantised (tensors: 14 as Q8_0): ")
    assert "de-quantising 21 tensors …" in said.err
    assert AutoConfig.from_pretrained(model).dtype == torch.float16


def test_g5_the_base_may_be_the_file_itself(
    tmp_path: Path, cache: Path, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "toy.gguf")
    params = ModelParams(base=str(file), max_new_tokens=4)
    with caplog.at_level(logging.WARNING, "fst.models"):
        assert footprint(params, rank=2).parameters == sum(p.numel() for p in toy().parameters())
    assert f"{file}: the file only names the tokenizer's rule for splitting text" in caplog.text
    (made,) = (path for path in cache.iterdir() if path.is_dir())
    before = (made / "model.safetensors").stat().st_mtime_ns
    policy = load_policy(params)
    assert policy.end_ids == tuple(sorted((END, ENDOFTEXT)))
    ids = policy.encode([policy.messages("", "ab")])
    plain = load_policy(ModelParams(base=str(folders["llama"]), max_new_tokens=4))
    assert policy.answer_ids(ids, 2, 0) == plain.answer_ids(ids, 2, 0)
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    assert base_sha256(str(file)) == file_sha256(file)
    write(file, quantised=True)
    assert imported(file) != made
    assert base_sha256(str(file)) == file_sha256(file)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing", b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_g6_a_file_that_is_none(tmp_path: Path, cache: Path, content: bytes) -> None:
    file = tmp_path / "toy.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"toy.gguf: transformers cannot read this GGUF file: .*\nUse a complete file"):
        import_gguf(file, tmp_path / "model")
    with pytest.raises(ModelError, match="cannot read this GGUF file"):
        load_reader(ModelParams(base=str(file)))
    assert not (tmp_path / "model").exists()
    assert not any(path.is_dir() for path in cache.iterdir())


def test_g6_a_file_that_is_cut_off(tmp_path: Path) -> None:
    file = write(tmp_path / "toy.gguf")
    file.write_bytes(file.read_bytes()[:-20_000])
    with pytest.raises(ModelError, match="transformers cannot read this GGUF file"):
        import_gguf(file, tmp_path / "model")


def test_g6_an_architecture_that_transformers_does_not_know(tmp_path: Path) -> None:
    file = write(tmp_path / "toy.gguf")
    file.write_bytes(file.read_bytes().replace(b"llama", b"lxama"))
    with pytest.raises(
        ModelError, match=r"(?s)toy.gguf: transformers cannot read .*lxama.*the original model's folder$"
    ):
        import_gguf(file, tmp_path / "model")


def test_g6_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.gguf: No such file or directory; name a GGUF file"):
        load_reader(ModelParams(base=str(tmp_path / "none.gguf")))


def test_g6_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "toy.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["model", "import", str(file), str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.endswith("needs the package gguf: pip install 'fast-slow-training[gguf]'\n")


@pytest.mark.slow
def test_g7_a_real_model_answers(smollm2: Path, smollm2_gguf: Path) -> None:
    """SmolLM2-135M from its 4-bit file; it can do little, but it knows a capital, and ends its answers."""
    policy = load_policy(ModelParams(base=str(smollm2), max_new_tokens=32))
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (policy.tokenizer.eos_token_id, policy.end_ids, policy.context) == (end, (end,), 8192)
    ((answer,),) = policy.answer([policy.messages("", "What is the capital of France?")], 1, 0, temperature=0)
    assert "Paris" in answer.text
    assert answer.tokens[-1] == end
    facts = json.loads((smollm2 / "gguf.json").read_text())
    assert facts["sha256"] == file_sha256(smollm2_gguf)
    assert facts["lost"][0].startswith("the weights were quantised (tensors: 210 as Q4_1, 1 as Q8_0): ")
