"""Estimates what a run will need before anything is loaded: memory of each phase, rollouts and tokens per cycle.

The figures come from the model's configuration. A phase that does not fit the device is refused with an error that
names the key of params.yaml to lower.
"""

from __future__ import annotations

from dataclasses import dataclass

from fst.config import PROPOSALS, FastParams, Params
from fst.errors import ConfigError
from fst.models.device import device_of
from fst.models.engines.vllm_server import told
from fst.models.likelihood import MAX_LOGITS, MAX_TOKENS
from fst.models.memory import Footprint, device_bytes, footprint
from fst.models.sampler import MAX_ROWS, answer_bytes

TRAINED_BYTES = 16  # of an adapter's parameter: float32 value, gradient and Adam's two moments
SCORED_WIDTHS = 24  # hidden states that a layer holds at once for a token when nothing is saved
SHARE = 0.95  # of the device's memory that a run may fill
VLLM_SHARE = 0.9  # of a GPU that vLLM takes unless told otherwise
GIB = 2**30
ASLEEP = 3 * GIB  # of a GPU that a vLLM server holds while it sleeps, at most


@dataclass(frozen=True)
class Phase:
    """One phase of a cycle: the bytes it needs beside the weights, the keys of params.yaml that lower them, and the
    bytes (`left`) that a sleeping server frees for this phase only."""

    name: str
    bytes: int
    keys: str
    left: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run will need. `weights` is the bytes of the model with its adapter and optimizer, `room` the bytes that
    the device has for this process; `rollouts` per cycle by purpose, at most; `tokens` new ones per cycle, at most."""

    device: str
    room: int
    weights: int
    phases: tuple[Phase, ...]
    rollouts: dict[str, int]
    tokens: int
    fast: str = ""  # what a fast round cannot do within its budget
    parts: str = ""  # what a sequential arm spends on which kind of round

    @property
    def peak(self) -> int:
        """Bytes at the fullest moment."""
        return self.weights + max(phase.bytes for phase in self.phases)

    def check(self) -> None:
        """Raise ConfigError, naming the key to lower, if a phase does not fit the device."""
        if self.weights > SHARE * self.room:
            raise ConfigError(
                f"model.base: weights, adapter and optimizer take {_gib(self.weights)} of {self.device}, which has "
                f"{_gib(self.room)}; pick a smaller model, or model.dtype: bfloat16"
            )
        for phase in self.phases:
            room = self.room + phase.left
            if self.weights + phase.bytes > SHARE * room:
                raise ConfigError(
                    f"{phase.keys}: {phase.name} take{'s' * (not phase.name.endswith('s'))} about {_gib(phase.bytes)} "
                    f"beside {_gib(self.weights)} of weights, and {self.device} has {_gib(room)}; lower it"
                )

    def lines(self) -> list[str]:
        """Format the plan, one fact per line."""
        rollouts = ", ".join(f"{count:,} {purpose}" for purpose, count in self.rollouts.items())
        return [
            f"device      {self.device}, {_gib(self.room)}",
            f"weights     {_gib(self.weights)}, adapter and optimizer included",
            *(f"{phase.name:11s} {_gib(phase.bytes)} more ({phase.keys})" for phase in self.phases),
            f"peak        {_gib(self.peak)}",
            f"per cycle   at most {rollouts} rollouts, {self.tokens:,} new tokens",
            *([f"fast round  {self.fast}"] if self.fast else []),
            *([f"rollouts    {self.parts}"] if self.parts else []),
        ]


def plan_run(params: Params, question_tokens: int) -> Plan:
    """Plan a run whose longest question has `question_tokens` tokens. Raises ModelError if the model's configuration
    cannot be read."""
    device = device_of(params.model.device)
    found = footprint(params.model, params.slow.lora_rank, bool(params.slow.trl.get("gradient_checkpointing")))
    context = question_tokens + params.fast.max_prompt_tokens
    total = device_bytes(device)
    servers = round(total * _servers_share(params, device.type))
    rounds = -(-2 // params.evaluate.every)  # of a cycle that end in an evaluation
    evaluations = rounds * params.evaluate.samples * params.prepare.validation
    rollouts = {
        "training": params.loop.steps_per_cycle * params.rollouts_per_step,
        "fast": params.fast.budget,
        "evaluation": evaluations,
    }
    return Plan(
        device=str(device),
        room=total - servers,
        weights=found.parameters * _itemsize(params) + found.adapter * TRAINED_BYTES,
        phases=(
            Phase("answers", _answers(params, found, context), "model.cache_gb"),
            Phase(
                "training",
                _training(params, found, context),
                "slow.micro_tokens",
                max(0, servers - ASLEEP) if params.vllm.sleep else 0,
            ),
            Phase("scoring", MAX_TOKENS * SCORED_WIDTHS * found.width * 4 + 3 * 4 * MAX_LOGITS, "model.base"),
        ),
        rollouts=rollouts,
        tokens=sum(rollouts.values()) * params.model.max_new_tokens,
        fast=_fast(params.fast),
    )


def _fast(fast: FastParams) -> str:
    """Describe what fast.budget is enough for, if it is too small for all anchors or proposals; otherwise empty."""
    anchors, proposals = fast.room(fast.budget, fast.carried)
    if (anchors, proposals) == (fast.anchors, PROPOSALS):
        return ""
    return (
        f"scores {fast.carried} prompts again, on {anchors} of {fast.anchors} anchors, which leaves rollouts for "
        f"{proposals} proposal{'s' * (proposals > 1)} (fast.budget)"
    )


def _answers(params: Params, found: Footprint, context: int) -> int:
    """Bytes of the cache and logits of a batch of answers; 0 for engines that manage their own memory."""
    if params.model.engine != "transformers":
        return 0
    row = answer_bytes(context + params.model.max_new_tokens, found.cache_bytes, found.vocabulary)
    rows = max(1, min(MAX_ROWS, int(params.model.cache_gb * GIB) // row))
    return row * min(rows, max(params.rollouts_per_step, params.evaluate.samples * params.prepare.validation))


def _training(params: Params, found: Footprint, context: int) -> int:
    """Bytes of the activations of a slice in its forward and backward pass."""
    row = context + params.model.max_new_tokens
    tokens = max(row, min(params.slow.micro_tokens, params.rollouts_per_step * row))
    return tokens * found.activation_bytes


def _servers_share(params: Params, kind: str) -> float:
    """Share of the GPU that a vLLM server started beside the training takes."""
    if params.model.engine != "vllm" or params.vllm.url or kind != "cuda":
        return 0.0
    return float(told(params.vllm.arguments, "--gpu-memory-utilization") or VLLM_SHARE)


def _itemsize(params: Params) -> int:
    return 2 if params.model.dtype == "bfloat16" else 4


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
