"""Which engine a policy samples with."""

from __future__ import annotations

import functools

from fst.config.sections import ModelParams
from fst.config.sections_live import VllmParams
from fst.models.engines.vllm import VllmEngine
from fst.models.engines.vllm_server import VllmServer
from fst.models.policy import Policy, load_policy, model_place


def load_with_engine(model: ModelParams, vllm: VllmParams, rank: int) -> Policy:
    """The policy of the parameters, sampling with their engine. `rank` is the most that its adapters have. Raises
    ModelError; a vLLM server is started when it is first asked."""
    policy = load_policy(model.base, model.max_new_tokens, model.dtype)
    if model.engine == "vllm":
        policy.engine = VllmEngine(policy, shared_server(model_place(model.base), rank, model.dtype, vllm), vllm)
    return policy


@functools.cache
def shared_server(place: str, rank: int, dtype: str, vllm: VllmParams) -> VllmServer:
    """One server a process: starting one takes half a minute."""
    return VllmServer(place, rank, dtype, vllm)
