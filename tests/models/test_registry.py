"""Engines by name. T1 a policy samples with the engine that model.engine names; T2 a decorator or an installed package
adds an engine, and params.yaml takes its name, which is checked without loading torch; T3 an unknown name, and an
engine that cannot be imported, are refused by the key's path; T4 a process that only answers holds no weights where the
engine has its own, and reads and ends answers as one that does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fst.config import ModelParams, Params, params_from_dict
from fst.errors import ConfigError
from fst.models.engines.in_process import TransformersEngine
from fst.models.engines.registry import engine_class, load_engine, load_with_engine
from fst.models.engines.vllm import VllmEngine
from fst.models.policy import load_policy, without_weights
from fst.models.sampler import Answer, Sampling
from fst.tables import ENGINES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def engines() -> Iterator[None]:
    """The table as it was, when the test is over."""
    before = dict(ENGINES.rows)
    yield
    ENGINES.rows.clear()
    ENGINES.rows.update(before)


def test_t1_the_engine_is_the_one_that_is_named() -> None:
    assert type(load_with_engine(Params()).engine) is TransformersEngine
    named = params_from_dict({"model": {"engine": "vllm"}, "vllm": {"url": "http://127.0.0.1:9"}})
    engine = load_engine(named)
    assert isinstance(engine, VllmEngine)
    assert engine._server.url() == "http://127.0.0.1:9"
    assert [engine_class(name).concurrent for name in ("transformers", "vllm")] == [False, True]
    engine.close()


@pytest.mark.usefixtures("engines")
def test_t2_an_engine_is_added_by_a_decorator() -> None:
    with pytest.raises(ConfigError, match="'counting' is none of"):
        params_from_dict({"model": {"engine": "counting"}})

    @ENGINES.add("counting")
    class Counting(TransformersEngine):
        def sample(self, requests: Sequence[Sequence[int]], plan: Sampling) -> list[list[Answer]]:
            asked.append(len(requests))
            return super().sample(requests, plan)

    asked: list[int] = []
    policy = load_with_engine(params_from_dict({"model": {"engine": "counting"}}))
    answers = policy.answer([policy.messages("reverse the list", "digits: 3 1 4 2 5")], 2, seed=0, temperature=0)
    assert [answer.text for answer in answers[0]] == ["5 2 4 1 3", "5 2 4 1 3"]
    assert asked == [1]


@pytest.mark.slow
def test_t2_an_engine_is_added_by_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "mine-1.0.dist-info").mkdir()
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text("[fst.engines]\nmine = mine:Mine\n")
    (tmp_path / "mine.py").write_text(
        "from fst.models.engines.in_process import TransformersEngine\n"
        "class Mine(TransformersEngine): concurrent = True\n"
    )
    code = (
        "import sys\n"
        "from fst.config import load_params\n"
        "params = load_params(None, ['model.engine=mine'])\n"
        "assert 'torch' not in sys.modules\n"
        "from fst.models.engines.registry import engine_class, load_engine\n"
        "print(type(load_engine(params)).__name__, engine_class('mine').concurrent)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.returncode) == (["Mine", "True"], 0), done.stderr


@pytest.mark.usefixtures("engines")
def test_t3_an_engine_that_cannot_be_used_is_refused_by_the_keys_path() -> None:
    message = r"^model\.engine: 'vlm' is none of 'transformers', 'vllm'; did you mean 'vllm'\?$"
    with pytest.raises(ConfigError, match=message):
        engine_class("vlm")
    ENGINES.rows.update(gone="nowhere.at_all:Engine", empty="fst.models.engines.vllm:Nothing")
    for name, why in (("gone", "No module named 'nowhere'"), ("empty", "has no attribute 'Nothing'")):
        with pytest.raises(ConfigError, match=rf"^model\.engine: '{name}' cannot be loaded: .*{why}"):
            load_engine(params_from_dict({"model": {"engine": name}}))


@pytest.mark.parametrize("said", [[7, 2], None])
def test_t4_a_policy_without_weights(tiny_model_dir: Path, tmp_path: Path, said: list[int] | None) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").unlink()
    if said:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    params = ModelParams(base=str(folder), max_new_tokens=8)
    whole, empty = load_policy(params), without_weights(params)
    assert {parameter.device.type for parameter in empty.model.parameters()} == {"meta"}
    assert empty.end_ids == whole.end_ids
    assert (2 in empty.end_ids and 7 in empty.end_ids) is bool(said)
    messages = [whole.messages("reverse the list", "digits: 3 1 4")]
    assert empty.encode(messages) == whole.encode(messages)
    answer = Answer(tuple(whole.encode(messages)[0]), ())
    assert empty.decoded([answer]) == whole.decoded([answer])


def test_t4_the_gateway_loads_weights_only_for_an_engine_without(tiny_model_dir: Path) -> None:
    loaded = {}
    for name in ("transformers", "vllm"):
        engine = load_engine(
            params_from_dict(
                {"model": {"base": str(tiny_model_dir), "engine": name}, "vllm": {"url": "http://127.0.0.1:9"}}
            )
        )
        loaded[name] = {parameter.device.type for parameter in engine._policy.model.parameters()}  # type: ignore[attr-defined]
        engine.close()
    assert loaded == {"transformers": {"cpu"}, "vllm": {"meta"}}
