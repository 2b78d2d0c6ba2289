"""Loads a policy with the engine that its parameters name; fst/tables.py lists the engines."""

from __future__ import annotations

import os
from typing import cast

import torch

from fst.config import Params
from fst.models.engines.engine import Engine
from fst.models.policy import Policy, load_policy, without_weights
from fst.tables import ENGINES


def engine_class(name: str) -> type[Engine]:
    """Import the engine of that name. Raises ConfigError if there is none, or if it cannot be imported."""
    return cast(type[Engine], ENGINES.get(name, "model.engine"))


def load_with_engine(params: Params) -> Policy:
    """Load the policy of the parameters, sampling with their engine. Raises ModelError for a model that cannot be
    loaded, ConfigError for an engine that cannot be imported."""
    model = params.model
    policy = load_policy(model)
    policy.engine = engine_class(model.engine).build(policy, params)
    return policy


def load_engine(params: Params) -> Engine:
    """Load the engine of the parameters for a process that only serves, so that a vLLM server need not sleep. The
    model's weights are loaded only if the engine has none of its own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(params.model.threads)
    params = params.replace(vllm=params.vllm.replace(sleep=False))
    kind = engine_class(params.model.engine)
    if not kind.own_weights:
        return load_with_engine(params).engine
    return kind.build(without_weights(params.model), params)
