"""TRL's side of the slow weights: its configuration, and plain TRL as `fst bench speed` compares with it."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from fst.config import ModelParams, Params, SlowParams
from fst.data.types import Problem
from fst.errors import ConfigError
from fst.models.adapter import lora_config
from fst.models.device import device_of
from fst.models.policy import Policy

# Set by the method or the machine; a user's TRL option may not contradict them.
_OWNED = frozenset(
    (
        *("output_dir", "loss_type", "epsilon_high", "beta", "num_generations", "per_device_train_batch_size"),
        *("steps_per_generation", "gradient_accumulation_steps", "num_iterations", "max_completion_length"),
        *("learning_rate", "warmup_steps", "max_grad_norm", "seed", "use_cpu", "bf16", "report_to", "temperature"),
        # answers come from fst/models/sampler.py, so TRL's own generation options would do nothing
        *("top_p", "top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation", "use_vllm"),
    )
)


def trl_config(params: SlowParams, model: ModelParams, workdir: Path, seed: int) -> GRPOConfig:
    """TRL's configuration of the method (paper, settings reported) with the user's `slow.trl` options on top.

    Raises ConfigError for an option that contradicts the method's own parameters, or that TRL does not know.
    """
    if "chat_template_kwargs" in params.trl:
        raise ConfigError(
            "slow.trl.chat_template_kwargs: say model.chat_template_kwargs, which fast rounds, evaluation and serving "
            "read too"
        )
    contradicting = sorted(_OWNED & set(params.trl))
    if contradicting:
        raise ConfigError(f"slow.trl.{contradicting[0]}: is set by slow.* in params.yaml itself, or has no effect here")
    device = device_of(model.device)
    rows = params.problems_per_step * params.group_size
    options: dict[str, Any] = {
        "output_dir": str(workdir),
        "loss_type": "cispo",
        "epsilon_high": params.ratio_cap,
        "beta": params.kl_penalty,
        "num_generations": params.group_size,
        "per_device_train_batch_size": rows,
        "steps_per_generation": 1,
        "gradient_accumulation_steps": 1,
        "num_iterations": 1,
        "max_completion_length": model.max_new_tokens,
        "chat_template_kwargs": dict(model.chat_template_kwargs),
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": params.warmup_steps,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": params.max_grad_norm,
        "scale_rewards": "group",
        "gradient_checkpointing": False,
        "temperature": 1.0,
        "seed": seed,
        "use_cpu": device.type == "cpu",
        "bf16": device.type == "cuda" and model.dtype == "bfloat16",
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    try:
        return GRPOConfig(**{**options, **params.trl})
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"slow.trl: TRL refuses these options: {exc}") from exc


class _TimedTrainer(GRPOTrainer):
    """Plain TRL that notes when each step starts."""

    starts: list[float]

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        self.starts.append(time.monotonic())
        return super().training_step(*arguments, **options)


def plain_step_seconds(
    policy: Policy, params: Params, problems: Sequence[Problem], prompt: str, workdir: Path, steps: int
) -> list[float]:
    """Seconds a step of GRPOTrainer as it comes: same model, LoRA, batch, lengths and options, one prompt, its own
    generation. The first step is left out. What `fst bench speed` compares with."""
    rows = [{"prompt": policy.messages(prompt, p.question), "answer": p.answer} for p in problems]

    def reward(prompts: Any, completions: Any, answer: list[str], **_: Any) -> list[float]:
        return [float(c[0]["content"].strip() == a) for c, a in zip(completions, answer, strict=True)]

    config = trl_config(params.slow, params.model, workdir, seed=0)
    config.max_steps = steps + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = _TimedTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            peft_config=lora_config(params.slow.lora_rank, params.slow.lora_alpha),
        )
        trainer.starts = []
        with contextlib.redirect_stdout(io.StringIO()):  # TRL prints its figures at the end
            trainer.train()
    return [after - before for before, after in itertools.pairwise(trainer.starts)][1:]
