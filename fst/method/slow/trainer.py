"""TRL's side of the slow weights: its configuration, and plain TRL as the baseline of `fst bench speed`."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from fst.config import ModelParams, Params, SlowParams
from fst.errors import ConfigError
from fst.extras import unfound
from fst.models.adapter import lora_config
from fst.models.device import device_of
from fst.models.policy import Policy

with unfound("wandb", "mlflow", "trackio"):  # TRL imports all of them, which takes six seconds, and uses none here
    from trl import GRPOConfig
    from trl import GRPOTrainer as GRPOTrainer  # for weights.py too

# Set by the method or the machine; `slow.trl` may not set them.
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
    """Make TRL's configuration for the method (the paper's settings), with the user's `slow.trl` options on top.

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


def figures_of(trainer: GRPOTrainer) -> dict[str, float]:
    """Return TRL's own figures of the steps since the last call, each the mean of its values as in TRL's log, and clear
    them: TRL would keep them for a logger that is not used here."""
    kept = trainer._metrics["train"]
    figures = {name: sum(parts) / len(parts) for name, parts in kept.items() if parts}
    kept.clear()
    trainer._logs["rewards"].clear()
    return {name: value for name, value in figures.items() if not name.startswith("rewards/")}  # they repeat `reward`


Part = Callable[[str], AbstractContextManager[None]]  # opens a block whose time belongs to the named part


class _MeteredTrainer(GRPOTrainer):
    """Plain TRL that reports the parts of a step: `answers` is its generation, `training` the rest."""

    part: Part

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        with self.part("answers"):
            return super()._generate_single_turn(*arguments, **options)


class _Steps(TrainerCallback):
    """Opens the part `training` of the next step when it begins, and closes it when it ends."""

    def __init__(self, trainer: _MeteredTrainer, parts: Sequence[Part]) -> None:
        self._trainer, self._parts, self._open = trainer, iter(parts), contextlib.ExitStack()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._trainer.part = next(self._parts)
        self._open.enter_context(self._trainer.part("training"))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._open.close()


@dataclass(frozen=True)
class PlainTrl:
    """Unmodified GRPOTrainer, the baseline of `fst bench speed`: same model, LoRA, batch, lengths and options, but its
    own generation. `rows` are those of its dataset, `micro_rows` is the most rows of a micro-batch, `shortest` the
    minimum length of an answer in tokens."""

    rows: Sequence[dict[str, Any]]
    reward: Callable[..., list[float]]
    micro_rows: int
    shortest: int

    def train(self, policy: Policy, params: Params, workdir: Path, parts: Sequence[Part]) -> None:
        """Take one step for each of `parts`, which meters what that step spends."""
        config = trl_config(params.slow, params.model, workdir, seed=0)
        rows = config.per_device_train_batch_size
        slices = next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= self.micro_rows)
        config.per_device_train_batch_size = rows // slices
        config.gradient_accumulation_steps = config.steps_per_generation = slices
        config.max_steps = len(parts)
        config.generation_kwargs = {"min_new_tokens": self.shortest} if self.shortest else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = _MeteredTrainer(
                model=policy.model,
                reward_funcs=self.reward,
                args=config,
                train_dataset=Dataset.from_list(list(self.rows)),
                processing_class=policy.tokenizer,
                peft_config=lora_config(params.slow.lora_rank, params.slow.lora_alpha),
            )
            trainer.add_callback(_Steps(trainer, parts))
            with contextlib.redirect_stdout(io.StringIO()):  # TRL prints its figures at the end
                trainer.train()
