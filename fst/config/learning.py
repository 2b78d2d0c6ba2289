"""The sections of params.yaml that decide what a run does: problems, model, slow weights, fast weights, the loop."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fst.config.section import Number, Section, Texts, as_tuple
from fst.errors import ConfigError
from fst.tables import ENGINES

Engine = Annotated[str, AfterValidator(lambda name: ENGINES.known(name, "model.engine"))]


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"{name!r} is no device; say auto, cpu, cuda or mps (CUDA_VISIBLE_DEVICES says which GPU)")
    return name


TEMPLATE_OWNED = frozenset(
    (
        *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"),
        *("continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "tokenizer_kwargs"),
    )
)
"""Arguments of `apply_chat_template` that are not options of the template: the conversation, and how text is
encoded."""


def _template_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in options.items():
        path = f"model.chat_template_kwargs.{name}"
        if name in TEMPLATE_OWNED:
            raise ConfigError(f"{path}: is no option of a chat template; name one that it reads, like enable_thinking")
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(f"{path}: expected true, false, a number or a text, found {value!r}")
    return options


def _url(text: str) -> str:
    """Check a URL. Errors and records print it, so it must not contain secrets; a refused one is not repeated."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    else:
        if url.username is not None or url.password is not None or url.query or url.fragment:
            raise ConfigError(
                "reflector.base_url: must hold no user, password, query or fragment; the key goes into the variable "
                "that reflector.api_key_env names"
            )
    if not good:
        raise ConfigError("reflector.base_url: not a URL; give one such as http://localhost:8000/v1")
    return text


def _variable(name: str) -> str:
    """Check the name of an environment variable. A wrong value is not repeated, as it usually is the key itself."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ConfigError("reflector.api_key_env: must be the NAME of an environment variable, not the key")
    return name


class PrepareParams(Section):
    """How many problems each split has. Validation and test are the same for every seed."""

    seed: int = Field(0, ge=0, description="seed of the stage's training problems (`fst train` uses its own seed)")
    train: int = Field(1024, ge=1, description="training problems")
    validation: int = Field(200, ge=1, description="validation problems: a run's curve, and the reference for traffic")
    test: int = Field(200, ge=1, description="test problems: the reward that a candidate is judged by")


class ModelParams(Section):
    """The policy: a causal LM with a chat template."""

    base: str = Field("lab", description="a directory, a hub id, a .gguf file, or `lab`, the included model")
    chat_template_kwargs: Annotated[Mapping[str, Any], AfterValidator(_template_options)] = Field(
        {}, description="options of the chat template by name, e.g. {enable_thinking: false}"
    )
    max_new_tokens: int = Field(16, ge=1, description="longest answer, in tokens")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="number format of the weights")
    device: Annotated[str, AfterValidator(_device)] = Field(
        "auto", description="where it runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="attention implementation of transformers; `auto` lets it choose"
    )
    cache_gb: Number = Field(
        4.0,
        ge=0.01,
        description="GiB for the key-value cache and logits of a batch of answers; limits its rows",
    )
    engine: Engine = Field(
        "transformers",
        description="what samples answers: `transformers` in this process, `vllm` (a server), or a registered one",
        examples=list(ENGINES.rows),
    )
    threads: int = Field(1, ge=1, description="CPU threads of torch; more help from about ten million parameters on")


class VllmParams(Section):
    """The vLLM server, used if model.engine is `vllm`."""

    url: str = Field("", description="URL of a running server; empty: one is started, and stopped with the process")
    python: str = Field(".venv-vllm/bin/python", description="Python with vLLM (`make vllm`), to start a server")
    api_key_env: str = Field("VLLM_API_KEY", description="environment variable that holds the server's API key")
    start_seconds: Number = Field(300.0, ge=1, description="longest wait for a started server to be ready")
    timeout_seconds: Number = Field(120.0, ge=0, description="longest wait to connect, and for anything but answers")
    max_loras: int = Field(4, ge=1, description="adapters that the server holds at once")
    context: int = Field(
        4096,
        ge=16,
        description="context of a started server (--max-model-len): tokens of prompt, question and answer together, at "
        "most the model's own",
    )
    sleep: bool = Field(
        True,
        description="whether a server that was started on a GPU frees the GPU's memory while the adapter is trained",
    )
    arguments: Texts = Field((), description="further command-line arguments of `vllm serve`; they override the others")


class SlowParams(Section):
    """Slow weights: a LoRA adapter, trained by RL (CISPO)."""

    problems_per_step: int = Field(16, ge=1, description="problems per RL step")
    group_size: int = Field(8, ge=2, description="G: rollouts per problem; a multiple of fast.prompts")
    learning_rate: Number = Field(1e-3, ge=0, description="peak learning rate of AdamW, after the warm-up")
    warmup_steps: int = Field(10, ge=0, description="RL steps of linear warm-up")
    ratio_cap: Number = Field(4.0, ge=1, description="tau: cap of the importance ratio (absolute, no unit)")
    kl_penalty: Number = Field(1e-3, ge=0, description="weight of the KL divergence from the base model in the loss")
    max_grad_norm: Number = Field(1.0, ge=0, description="gradients are clipped to this norm")
    lora_rank: int = Field(16, ge=1, description="rank of the adapter")
    lora_alpha: int = Field(32, ge=1, description="the adapter's product is scaled by lora_alpha / lora_rank")
    micro_tokens: int = Field(
        16384, ge=1, description="tokens that run through the model at once; a step's rows are cut into such slices"
    )
    trl: Mapping[str, Any] = Field({}, description="further options of TRL's GRPOConfig, by name")


PROPOSALS = 3  # that a fast round has rollouts for, if its budget allows it


class FastParams(Section):
    """Fast weights: K prompts, evolved by GEPA."""

    prompts: int = Field(4, ge=1, description="K: prompts in the population; slow.group_size is a multiple of it")
    anchors: int = Field(32, ge=1, description="the most problems that a prompt is scored on; see `budget`")
    minibatch: int = Field(8, ge=1, description="problems that a reflection reads; at most `anchors`")
    budget: int = Field(
        400,
        ge=1,
        description="the most rollouts per round, including re-scoring; a round uses as many of its anchors as leave "
        f"room for {PROPOSALS} proposals",
    )
    tie: Number = Field(
        0.1,
        ge=0,
        le=0.9,
        description="rewards on a problem count as equal if they differ by at most this share of the larger one",
    )
    patience: int = Field(3, ge=1, description="the round ends after so many proposals in a row without improvement")
    max_prompt_tokens: int = Field(64, ge=1, description="longest prompt, in tokens")
    demonstrations: int = Field(
        0,
        ge=0,
        description="the most worked examples in a prompt, from training problems; 0: only instructions",
    )
    carry: bool = Field(True, description="keep the population for the next round; false: begin with the seed prompt")
    feedback: Literal["full", "reward"] = Field("full", description="what reflections read: all, or only the reward")

    @property
    def carried(self) -> int:
        """The most prompts that a round scores again before it proposes any."""
        return self.prompts if self.carry else 1

    def room(self, budget: int, prompts: int) -> tuple[int, int]:
        """Divide a budget of rollouts. Returns the number of anchors on which a round scores prompts, and the number of
        proposals for which it then always has rollouts. `prompts` prompts are scored again; a proposal costs a
        minibatch under its parent, the same under itself, and the anchors.

        If the budget is too small for `PROPOSALS`, there are as many as fit with at least a minibatch of anchors; if
        none fits, the whole budget is for scoring again.
        """
        for proposals in range(PROPOSALS, 0, -1):
            anchors = (budget - 2 * proposals * self.minibatch) // (prompts + proposals)
            if anchors >= self.minibatch:
                return min(anchors, self.anchors), proposals
        return min(max(0, budget) // prompts, self.anchors), 0

    def budget_for(self, proposals: int) -> int:
        """The smallest budget that has room for this number of proposals."""
        return (self.carried + 3 * proposals) * self.minibatch


class ReflectorParams(Section):
    """The model that proposes prompts."""

    kind: Literal["policy", "endpoint"] = Field("policy", description="the policy, or an OpenAI-compatible server")
    style: Literal["auto", "pairs", "feedback"] = Field(
        "auto",
        description="how the policy is asked: with (input, expected) pairs, as the lab base was taught, or with the "
        "full feedback; `auto`: pairs for the lab base, feedback for all others",
    )
    weights: Literal["base", "current"] = Field("base", description="the policy's frozen base, or its current adapter")
    proposals: int | None = Field(
        None, ge=1, description="prompts that the policy draws per reflection; null: 128 from pairs, 4 from feedback"
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="longest reply, in tokens; null: 48 from pairs, fast.max_prompt_tokens + 128 from feedback, 4096 "
        "from an endpoint (including its thinking)",
    )
    temperature: Number = Field(1.0, ge=0, description="sampling temperature of proposals; 0: greedy")
    base_url: Annotated[str, AfterValidator(_url)] = Field(
        "http://localhost:8000/v1", description="address of the endpoint"
    )
    endpoint_model: str = Field("", description="model that the endpoint is asked for")
    api_key_env: Annotated[str, AfterValidator(_variable)] = Field(
        "OPENAI_API_KEY", description="environment variable that holds the endpoint's API key; unset: none is sent"
    )
    timeout_seconds: Number = Field(60.0, ge=0.01, le=86400, description="longest silence of the endpoint")
    max_retries: int = Field(5, ge=0, description="further attempts at the endpoint after transient failures")
    input_price: Number = Field(0.0, ge=0, description="price of a million input tokens of the endpoint")
    output_price: Number = Field(0.0, ge=0, description="price of a million output tokens of the endpoint")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.kind == "endpoint" and not self.endpoint_model:
            raise ConfigError("reflector.endpoint_model: name the model that the endpoint at reflector.base_url serves")
        return self


Balance = Literal["fixed", "auto"]
Signal = Literal["problems", "failures", "prompts", "temperature"]


class LoopParams(Section):
    """The alternation: per cycle one fast round and `steps_per_cycle` RL steps."""

    cycles: int = Field(10, ge=1, description="the most cycles per run")
    steps_per_cycle: int = Field(6, ge=1, description="T: RL steps per cycle")
    reuse: bool = Field(
        False,
        description="whether a fast round's rollouts under the prompts it chose enter the groups of the next slow "
        "round; only the rest is then sampled",
    )
    seed_prompt: str = Field(
        "solve the task",
        description="the first prompt; KL is compared under it too; docs/answers.md says what is added to it",
    )
    balance: Balance = Field(
        "fixed",
        description="`fixed`: the rounds take turns; `auto`: fast rounds are skipped while they gain no more per "
        "rollout than slow ones (fst/method/balance.py)",
    )
    signal: Annotated[tuple[Signal, ...], BeforeValidator(as_tuple)] = Field(
        (),
        description="what to do while nearly all groups have equal rewards: `problems` deals half of each batch from "
        "problems with mixed rewards, `failures` gives half of the anchors to problems that no answer solved, "
        "`prompts` keeps the seed prompt in the population, `temperature` samples at `signal_temperature`",
    )
    signal_temperature: Number = Field(
        1.5, ge=1, le=4, description="sampling temperature for `signal: temperature`; the loss corrects for it"
    )
    rollout_budget: int = Field(0, ge=0, description="the most learning rollouts per run; 0: what `fst` may spend")


class EvaluateParams(Section):
    """How a policy is measured on held-out problems."""

    samples: int = Field(4, ge=1, description="answers per problem at temperature 1: the reward is mean@samples")
    kl_problems: int = Field(100, ge=1, description="number of problems (the first ones) for the KL from the base")
    every: int = Field(1, ge=1, description="rounds between two validations of a run; the last round always has one")
