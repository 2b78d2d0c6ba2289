"""Options of the chat template, model.chat_template_kwargs. The invariants:

o1  every conversation that is put into tokens goes through one function, which uses them
o2  the slow step trains on exactly the tokens that fast rounds and evaluation read; TRL's own option is refused
o3  an option that the template does not read is refused, and so is what is no option of a template
o4  a release is served with the options it was trained with, whatever the gateway's own are
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from fst.checkout import LAB_BASE
from fst.config import ModelParams, SlowParams, load_params
from fst.config.learning import TEMPLATE_OWNED
from fst.errors import ConfigError
from fst.method.slow.trainer import trl_config
from fst.models.policy import load_policy, load_reader
from fst.serving.encode import Encoder
from support.gateway_toys import Place, serving, wait_until
from support.imports import ROOT
from support.slow_toys import PROBLEMS, Watched, population

READS = "{%- if enable_thinking is defined and not enable_thinking -%}{{ '1 2 3' }}{%- endif -%}"
OFF = {"enable_thinking": False}


def thinking(base: Path, folder: Path) -> Path:
    """A copy of a model whose chat template reads `enable_thinking`: where it is off, the answer begins with digits."""
    shutil.copytree(base, folder)
    with (folder / "chat_template.jinja").open("a", encoding="utf-8") as template:
        template.write(READS)
    return folder


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return thinking(tiny_model_dir, tmp_path / "model")


def test_o1_one_function_makes_tokens_of_a_conversation() -> None:
    called = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "fst").rglob("*.py")
        if "apply_chat_template(" in file.read_text(encoding="utf-8")
    }
    assert called == {"fst/models/reader.py", "fst/models/gguf.py"}  # the latter looks for the end token


def test_o1_the_options_reach_the_tokens(folder: Path) -> None:
    on, off = (load_reader(ModelParams(base=str(folder), chat_template_kwargs=k)) for k in ({}, OFF))
    asked = [[{"role": "user", "content": "7"}]]
    added = off.tokenizer("1 2 3", add_special_tokens=False)["input_ids"]
    assert off.encode(asked)[0] == on.encode(asked)[0] + added
    assert on.encode(asked, OFF) == off.encode(asked)
    assert off.encode(asked, {}) == on.encode(asked)
    assert (on.options, off.options) == ({}, OFF)


@pytest.mark.parametrize("options", [{}, OFF])
def test_o2_the_slow_step_reads_the_same_tokens(folder: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    policy = load_policy(ModelParams(base=str(folder), max_new_tokens=4, chat_template_kwargs=options))
    slow = Watched(policy, tmp_path / "work")
    slow.train_step(population(2), PROBLEMS[:3])
    rows = zip(slow.before["prompt_ids"], slow.before["prompt_mask"].bool(), strict=True)
    read = [ids[mask].tolist() for ids, mask in rows]
    two = [prompt.text for prompt in population(2).prompts]
    wanted = {tuple(policy.encode([policy.messages(text, p.question)])[0]) for text in two for p in PROBLEMS[:3]}
    assert set(map(tuple, read)) == wanted
    digits = policy.tokenizer("1 2 3", add_special_tokens=False)["input_ids"]
    assert all((ids[-len(digits) :] == digits) == bool(options) for ids in read)


def test_o2_trls_own_option_is_refused(tmp_path: Path) -> None:
    params = SlowParams(trl={"chat_template_kwargs": OFF})
    with pytest.raises(ConfigError, match=r"^slow.trl.chat_template_kwargs: say model.chat_template_kwargs, which"):
        trl_config(params, ModelParams(), tmp_path, 0)


def test_o3_an_option_that_the_template_does_not_read(folder: Path, tiny_model_dir: Path) -> None:
    wrong = ModelParams(base=str(folder), chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(ConfigError, match=r"^model.chat_template_kwargs.enable_thinkin: .*; did you mean 'enable_thi"):
        load_reader(wrong)
    plain = ModelParams(base=str(tiny_model_dir), chat_template_kwargs=OFF)
    with pytest.raises(ConfigError, match=r"reads no such name; it reads: none$"):
        load_policy(plain)


def test_o3_a_template_that_cannot_be_parsed_is_not_checked(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("{% generation %}{% endgeneration %}" + template.read_text())  # a tag of transformers' own
    reader = load_reader(ModelParams(base=str(folder), chat_template_kwargs={**OFF, "unheard_of": 1}))
    assert reader.tokenizer.decode(reader.encode([[{"role": "user", "content": "7"}]])[0]).endswith("1 2 3")


def test_o3_what_belongs_to_the_call_is_no_option() -> None:
    arguments = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert set(arguments) - {"self", "kwargs"} <= TEMPLATE_OWNED


def test_o4_the_record_has_them_and_the_encoder_takes_a_releases_own(folder: Path) -> None:
    params = load_params(None, ["model.chat_template_kwargs.enable_thinking=false"])
    assert params.of_run()["model"]["chat_template_kwargs"] == OFF
    reader = load_reader(ModelParams(base=str(folder)))
    encoder, asked = Encoder(reader), [{"role": "user", "content": "7"}]
    on, off = encoder.chat("add one", asked), encoder.chat("add one", asked, OFF)
    assert off == on + reader.tokenizer("1 2 3", add_special_tokens=False)["input_ids"]
    assert encoder.chat("add one", asked, {}) == on


@pytest.mark.slow
def test_o4_a_gateway_serves_each_release_as_it_was_trained(tmp_path: Path) -> None:
    place = Place(tmp_path)
    base = thinking(LAB_BASE, tmp_path / "base")
    added = len(load_reader(ModelParams(base=str(base))).tokenizer("1 2 3", add_special_tokens=False)["input_ids"])
    kept = {"loop": {"seed_prompt": "solve the task"}}
    plain = place.bundle("plain", {"digits": ["add one"]}, params=kept)
    off = place.bundle("off", {"digits": ["add one"]}, params={**kept, "model": {"chat_template_kwargs": OFF}})
    place.release(plain)
    with serving(place, model={"base": str(base), "max_new_tokens": 4}) as running:
        before = running.ask("digits: 1 2").json()["usage"]["prompt_tokens"]
        place.release(off)
        wait_until(lambda: running.ask("digits: 1 2").headers["X-FST-Release"] == off.id, 60)
        assert running.ask("digits: 1 2").json()["usage"]["prompt_tokens"] == before + added
