"""The sections of params.yaml, one frozen class each. Every field's default is what the file ships, the `domains`
apart; units stand in the names or in the field's comment. Reading and checking: fst/config/__init__.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fst.types import Arm


def _bounded(default: Any, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class PrepareParams:
    """Problems a split; validation and test are the same for every seed. `seed` deals the training problems that the
    stage `prepare` writes down; `fst train --domain` deals them by its own seed."""

    seed: int = _bounded(0, 0)
    train: int = _bounded(1024, 1)
    validation: int = _bounded(200, 1)
    test: int = _bounded(200, 1)


@dataclass(frozen=True)
class ModelParams:
    """The policy: a directory or hub id of a causal LM with a chat template. `lab` is the model shipped here."""

    base: str = "lab"
    max_new_tokens: int = _bounded(16, 1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    engine: Literal["transformers", "vllm"] = "transformers"  # who samples; see fst/models/engines/engine.py
    threads: int = _bounded(1, 1)


@dataclass(frozen=True)
class SlowParams:
    """Slow weights: LoRA by RL. `ratio_cap` is tau, the absolute cap of the importance ratio (CISPO)."""

    problems_per_step: int = _bounded(16, 1)
    group_size: int = _bounded(8, 2)  # G: rollouts a problem
    learning_rate: float = _bounded(1e-3, 0)
    warmup_steps: int = _bounded(10, 0)
    ratio_cap: float = _bounded(4.0, 1)
    kl_penalty: float = _bounded(1e-3, 0)
    max_grad_norm: float = _bounded(1.0, 0)
    lora_rank: int = _bounded(16, 1)
    lora_alpha: int = _bounded(32, 1)
    trl: Mapping[str, Any] = field(default_factory=dict)  # any further TRL GRPOConfig option


@dataclass(frozen=True)
class FastParams:
    """Fast weights: K prompts by GEPA. `budget` is rollouts a round, re-scoring included."""

    prompts: int = _bounded(4, 1)  # K
    anchors: int = _bounded(32, 1)  # problems a prompt is scored on
    minibatch: int = _bounded(8, 1)  # problems a reflection reads
    budget: int = _bounded(400, 1)
    patience: int = _bounded(3, 1)  # proposals in a row that bring nothing, then the round ends
    max_prompt_tokens: int = _bounded(64, 1)
    carry: bool = True  # the population into the next round; false: every round begins with the seed prompt
    feedback: Literal["full", "reward"] = "full"  # what reflection reads of a wrong answer: all, or that it is wrong


@dataclass(frozen=True)
class ReflectorParams:
    """Who writes prompts. `policy`: the frozen base itself, drawing `proposals` and screening them by
    likelihood; `endpoint`: an OpenAI-compatible server. `style`: `pairs` asks for a rule from
    (input, expected) pairs, as the lab base was taught; `feedback` gives a general LLM the full feedback. `weights`:
    whether the policy reflects with its frozen base, or as it is now."""

    kind: Literal["policy", "endpoint"] = "policy"
    style: Literal["pairs", "feedback"] = "pairs"
    weights: Literal["base", "current"] = "base"
    proposals: int = _bounded(128, 1)
    max_new_tokens: int = _bounded(48, 1)
    temperature: float = _bounded(1.0, 0)
    base_url: str = "http://localhost:8000/v1"
    endpoint_model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_seconds: float = _bounded(60.0, 0)
    max_retries: int = _bounded(5, 0)


@dataclass(frozen=True)
class LoopParams:
    """The alternation: `cycles` times a fast round and `steps_per_cycle` (T) RL steps.

    `rollout_budget` bounds the learning rollouts (training and fast) of a run; 0 means the `fst` arm's own
    most, so that every arm may spend as much as `fst` does.
    """

    cycles: int = _bounded(10, 1)
    steps_per_cycle: int = _bounded(6, 1)  # T
    seed_prompt: str = "solve the task"
    rollout_budget: int = _bounded(0, 0)


@dataclass(frozen=True)
class EvaluateParams:
    """mean@`samples` at temperature 1 on the held-out problems; drift on the first `drift_problems` of them."""

    samples: int = _bounded(4, 1)
    drift_problems: int = _bounded(100, 1)


@dataclass(frozen=True)
class DomainParams:
    """A domain that the stages know. `spec` says where its problems come from, `source` is the file that a change of
    is a change of its data, and `start` names the domain whose bundle it builds on: its adapter is trained on and
    its prompts are kept. `base` is the untrained model. `serves` is what its bundle calls it, when that is not its own
    name: the same domain on newer problems. `set` holds `section.key=value` overrides for its stages alone."""

    spec: str = ""
    source: str = "fst/data/lab/rules.py"
    start: str = "base"
    serves: str = ""
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidateParams:
    """Limits of the data suites. Shares are of a split's problems, lengths in the model's tokens."""

    min_problems: int = _bounded(16, 1)  # a split
    max_answer_share: float = _bounded(0.5, 0, 1)  # the commonest answer of a split; above it: a warning
    max_slice_share: float = _bounded(0.9, 0, 1)  # the commonest slice (meta.branch); above it: a warning


@dataclass(frozen=True)
class TrainParams:
    """The stage `train`: which arm, and the seed of everything it draws."""

    arm: Arm = "fst"
    seed: int = _bounded(0, 0)


@dataclass(frozen=True)
class BundleParams:
    """The stage `bundle`: how many prompts of the population a domain ships at most, best first."""

    prompts: int = _bounded(4, 1)


@dataclass(frozen=True)
class GateParams:
    """When a candidate may replace production. Rewards and losses are shares of 1, KL in nats a token."""

    confidence: float = _bounded(0.95, 0.5, 0.9999)
    resamples: int = _bounded(2000, 100)
    tie: Literal["keep", "replace"] = "keep"  # what an interval that contains zero means
    max_forgetting: float = _bounded(0.05, 0, 1)  # reward a domain that production serves may lose
    max_kl: float = _bounded(2.0, 0)
    max_prompt_tokens: int = _bounded(64, 1)
    max_cost_ratio: float = _bounded(1.5, 0)  # tokens an answer, prompt included, against production's
    seed: int = _bounded(0, 0)


@dataclass(frozen=True)
class FlowParams:
    """How patient the flows are: further attempts after a fault of the infrastructure, the seconds before the first of
    them (doubled each time), and how long a round or another stage may take before it is ended as hung."""

    retries: int = _bounded(3, 0)
    retry_seconds: float = _bounded(2.0, 0)
    round_seconds: float = _bounded(3600.0, 0)
    stage_seconds: float = _bounded(3600.0, 0)


@dataclass(frozen=True)
class StoreParams:
    """Where releases live: a directory, or s3://bucket/prefix (endpoint and credentials from the environment)."""

    url: str = "models/releases"
    channel: str = "prod"
    public_key: str = ""  # PEM file; when set, only bundles with its signature are served or compared with
    allow_unconditional_writes: bool = False  # for an S3 endpoint without compare-and-swap; one publisher only
