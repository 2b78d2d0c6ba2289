"""The vLLM engine, on a real vLLM server on the CPU and the lab base. V1 the same tokens have the log-probabilities of
transformers, but for rounding; V2 a slow round changes the adapter, the next sample uses it, and old ones go;
V3 a step's rollouts carry the server's log-probabilities into the loss; V4 a fast round; V5 the gateway serves and
streams through it, an adapter included; V6 a server that is gone is an EngineError. Without an environment of vLLM the
tests are skipped: `make vllm` makes it, and `make test` asks for it first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from fst.config import ModelParams, Params, VllmParams, params_from_dict
from fst.data.domains import load_domain
from fst.data.types import Domain, Problem, Score, SplitSizes
from fst.errors import EngineError
from fst.method.fast.round import Evolver, RoundPlan, fast_round
from fst.method.rollouts import Asker
from fst.method.slow.weights import SlowWeights
from fst.models.engines.registry import load_with_engine
from fst.models.engines.vllm import VllmEngine
from fst.models.engines.vllm_server import VllmServer, shared_server
from fst.models.likelihood import answer_logprobs
from fst.models.policy import Policy, load_reader, model_place
from fst.models.reflector import PolicyReflector
from fst.models.sampler import Sampling
from fst.types import Population, Prompt
from support.gateway_toys import REVERSE, Place, serving

PYTHON = Path(os.environ.get("FST_VLLM_PYTHON", Path(__file__).resolve().parents[2] / ".venv-vllm/bin/python"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment of vLLM here: make it with `make vllm`"),
]
PROMPT = "sort the digits from largest to smallest, then add one to each digit"


@pytest.fixture(scope="module")
def params() -> Params:
    return params_from_dict(
        {
            "model": {"engine": "vllm"},
            "vllm": {"python": str(PYTHON), "max_loras": 2},
            "slow": {"problems_per_step": 4, "group_size": 4, "warmup_steps": 0, "learning_rate": 1e-2},
            "fast": {"prompts": 2, "anchors": 8, "minibatch": 4, "budget": 60},
        }
    )


@pytest.fixture(scope="module")
def server(params: Params) -> Iterator[VllmServer]:
    context = load_reader(ModelParams()).context
    server = shared_server(model_place("lab"), params.slow.lora_rank, "float32", context, params.vllm)
    server.url()
    yield server
    server.close()


@pytest.fixture
def policy(params: Params, server: VllmServer) -> Iterator[Policy]:
    policy = load_with_engine(params)
    yield policy
    engine_of(policy)._http.close()  # the server is everybody's


@pytest.fixture(scope="module")
def domain() -> Domain:
    return load_domain("lab/sort_desc+add_one", SplitSizes(32, 4, 4), 0)


def engine_of(policy: Policy) -> VllmEngine:
    assert isinstance(policy.engine, VllmEngine)
    return policy.engine


def test_v1_log_probabilities_are_those_of_the_model(policy: Policy, domain: Domain) -> None:
    requests = policy.encode([policy.messages(PROMPT, p.question) for p in domain.train[:8]])
    groups = policy.answer_ids(requests, 2, seed=1)
    assert [len(group) for group in groups] == [2] * 8
    contexts = [request for request in requests for _ in range(2)]
    answers = [answer for group in groups for answer in group]
    forced = answer_logprobs(policy.model, contexts, [a.tokens for a in answers], policy.pad_id)
    for answer, expected in zip(answers, forced, strict=True):
        assert sum(answer.logprobs) == pytest.approx(expected, abs=0.02)
        assert answer.tokens[-1] == policy.tokenizer.eos_token_id
    assert policy.answer_ids(requests, 2, seed=1)[0][0].tokens == groups[0][0].tokens
    greedy = policy.answer([policy.messages(REVERSE, "digits: 3 1 4 2 5")], 1, seed=0, temperature=0)
    assert greedy[0][0].text == "5 2 4 1 3"


def test_v1_equal_requests_have_noise_of_their_own(policy: Policy, domain: Domain) -> None:
    request = policy.encode([policy.messages("solve the task", domain.train[0].question)])[0]
    groups = policy.answer_ids([request] * 6, 4, seed=1)
    answers = [answer.tokens for group in groups for answer in group]
    assert len(set(answers)) > 12, "24 answers of an untrained model to a prompt that says nothing"
    assert policy.answer_ids([request] * 6, 4, seed=1) == groups


def test_v2_v3_a_slow_round(policy: Policy, domain: Domain, params: Params, tmp_path: Path) -> None:
    right = cycle((1.0, 0.0))  # every group has signal, so that every step changes the adapter

    def verify(problem: Problem, text: str) -> Score:
        return Score(next(right), "")

    slow = SlowWeights(policy, params.slow, params.model, verify, tmp_path, seed=0)
    engine = engine_of(policy)
    population = Population((Prompt(PROMPT), Prompt(REVERSE)))
    seen: list[torch.Tensor] = []
    inner = slow.with_behaviour

    def watched(output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = inner(output)
        seen.append(found["old_per_token_logps"])
        return found

    slow.with_behaviour = watched  # type: ignore[method-assign, assignment]
    names = []
    for step in range(4):
        _, rollouts = slow.train_step(population, domain.train[4 * step : 4 * step + 4])
        names.append(engine._name)
        first = rollouts[0]
        assert torch.allclose(seen[-1][0, : len(first.logprobs)], torch.tensor(first.logprobs))
    assert len(set(names)) == 4, "each step sampled under the weights that the one before had made"
    known = engine._known()
    assert names[-1] in known
    assert not set(names[:-2]) & known, "old adapters are unloaded"
    requests = policy.encode([policy.messages(PROMPT, p.question) for p in domain.test])
    now = policy.answer_ids(requests, 4, seed=3)
    contexts = [request for request in requests for _ in range(4)]
    answers = [answer for group in now for answer in group]
    trained = answer_logprobs(policy.model, contexts, [a.tokens for a in answers], policy.pad_id)
    assert [sum(a.logprobs) for a in answers] == pytest.approx(trained, abs=0.05)
    assert isinstance(policy.model, PeftModel)
    with policy.frozen_base():
        base = answer_logprobs(policy.model, contexts, [a.tokens for a in answers], policy.pad_id)
        frozen = policy.answer_ids(requests, 1, seed=3)
        again = answer_logprobs(policy.model, requests, [g[0].tokens for g in frozen], policy.pad_id)
    assert [sum(g[0].logprobs) for g in frozen] == pytest.approx(again, abs=0.02)
    assert max(abs(a - b) for a, b in zip(trained, base, strict=True)) > 0.1, "the adapter does make a difference"


def test_v4_a_fast_round(policy: Policy, domain: Domain, params: Params) -> None:
    asker = Asker(policy, domain.verify, "fast", 0)
    seeds = iter(range(100))
    evolver = Evolver(
        lambda pairs: asker.ask(pairs, 1, next(seeds)),
        PolicyReflector(policy, 32, 32),
        params.fast,
        policy.count_tokens,
    )
    found = fast_round(evolver, Population((Prompt("solve the task"),)), domain.train[:8], RoundPlan(0, 0, 60, 0))
    assert 8 < found.spent <= 60
    assert len(found.prompts) > 1, "the reflector wrote something through the server"
    assert found.population.scores


def test_v5_the_gateway_serves_through_it(policy: Policy, server: VllmServer, tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.release(place.bundle("first", {"digits": [REVERSE]}, place.adapter("zero", 1e-4)))
    sections = {"model": {"base": "lab", "max_new_tokens": 12, "engine": "vllm"}, "vllm": {"url": server.url()}}
    with serving(place, **sections) as running:
        whole = running.ask("digits: 3 1 4 2 5")
        assert whole.json()["choices"][0]["message"]["content"] == "5 2 4 1 3"
        streamed = running.ask("digits: 3 1 4 2 5", stream=True).text
        assert streamed.count("data: ") >= 7
        assert '"content":"5"' in streamed
        release = running.gateway.live.production
        assert release is not None
        adapter = release.adapter
    assert adapter in engine_of(policy)._known()


def test_v6_a_server_that_is_gone_is_an_engine_error(policy: Policy) -> None:
    gone = VllmParams(url="http://127.0.0.1:9")
    engine = VllmEngine(policy, VllmServer("lab", 16, "float32", 128, gone), gone)
    with pytest.raises(EngineError, match=r"vLLM at http://127.0.0.1:9 does not answer"):
        engine.sample([[3, 4]], Sampling(1, 4, 1.0, (2,), 0, 0, 2**30))
    engine.close()
    missing = VllmParams(python="/nowhere/python")
    os.environ.pop("FST_VLLM_PYTHON", None)
    with pytest.raises(EngineError, match="make it with `make vllm`"):
        VllmServer("lab", 16, "float32", 128, missing).url()
