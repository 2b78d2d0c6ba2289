"""Slow weights: a LoRA adapter trained with GRPO advantages and the CISPO loss. Only trainer.py imports trl.

TRL's own generate-score-loss step is driven from here, one optimizer step per call, so that a round is a separate
unit while optimizer, schedule and problem order carry on across rounds. Deviations from plain TRL: answers come
from our sampler (groups share their prefill), K prompts are dealt within each group, zero-variance groups leave
the batch, and the loss is averaged within a prompt first (Eq. 4). With one prompt and answers of equal length the
result is that of plain TRL, and a test checks it.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset

from fst.config import ModelParams, SlowParams
from fst.data.types import Problem, Verifier
from fst.errors import ConfigError
from fst.method.rollouts import Asker
from fst.method.run import ranks
from fst.method.slow.batch import accumulate, tree_logprobs
from fst.method.slow.dealing import cell_weights, grouped, kept_rows, slot
from fst.method.slow.reuse import Spare, optimism
from fst.method.slow.trainer import GRPOTrainer, figures_of, trl_config
from fst.models.adapter import adapter_state, load_adapter, lora_config, save_adapter
from fst.models.device import free_cache
from fst.models.policy import Policy
from fst.models.sampler import Answer
from fst.models.tree import why_single
from fst.types import Population, Prompt, Rollout

log = logging.getLogger("fst")

# Kinds of distributed training in which every process has the whole model; the tree calls parts of it directly.
_WHOLE_MODELS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: `reward` is the mean over the rollouts it sampled, `kept_groups` counts groups with signal,
    `reused` the reused rollouts; `optimism` is how much higher their rewards were; `figures` are TRL's own."""

    reward: float
    groups: int
    kept_groups: int
    loss: float
    grad_norm: float
    seconds: float
    reused: int = 0
    optimism: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Batch:
    """The current step: its rows in order, and what our hooks find out about them."""

    problems: list[Problem]
    prompts: list[Prompt]
    reused: list[Rollout | None]
    temperature: float = 1.0
    answers: list[Answer] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    kept_groups: int = 0


class _Trainer(GRPOTrainer):
    """TRL's trainer, overridden where our sampler, averaging and shared contexts differ from its own."""

    slow: SlowWeights
    beta: float

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int, **_: Any
    ) -> Any:
        answers = self.slow.sample(prompt_ids)
        return [list(a.tokens) for a in answers], None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        penalty, self.beta = self.beta, 0.0  # the base scores the rows that are kept, slice by slice
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = penalty
        return self.slow.weigh(self.slow.with_behaviour(output))

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **more: Any
    ) -> Any:
        if not self.slow.tree:
            return super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **more)
        with self.accelerator.autocast():
            return *tree_logprobs(
                model, self.model, input_ids, attention_mask, logits_to_keep, self.slow.policy.pad_id
            ), None


class SlowWeights:
    """The trainable adapter on a policy, its optimizer and schedule. Makes `policy.model` the PEFT model."""

    def __init__(
        self, policy: Policy, params: SlowParams, model: ModelParams, verify: Verifier, workdir: Path, seed: int
    ) -> None:
        self.policy, self.params, self.verify, self.seed = policy, params, verify, seed
        self.step = 0
        self._batch = _Batch([], [], [])
        config = trl_config(params, model, workdir, seed)
        placeholder = Dataset.from_list([{"prompt": policy.messages("", "placeholder")}])
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TRL's and PEFT's start-up notices are about options we own
            self.trainer = _Trainer(
                model=policy.model,
                reward_funcs=self._reward,
                args=config,
                train_dataset=placeholder,
                processing_class=policy.tokenizer,
                peft_config=lora_config(params.lora_rank, params.lora_alpha),
            )
        self.trainer.slow = self
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer.create_optimizer_and_scheduler(num_training_steps=10**9)
        self.model = self.trainer.accelerator.prepare(self.trainer.model)
        self.trainer.model_wrapped = self.model
        policy.model = self.trainer.model
        policy.model.eval()
        if config.gradient_checkpointing:  # TRL leaves it to `train`, which is not used here
            policy.model.gradient_checkpointing_enable(config.gradient_checkpointing_kwargs)
            policy.model.enable_input_require_grads()
        single = why_single(policy.model)
        if self.trainer.accelerator.distributed_type not in _WHOLE_MODELS:
            single = "the model is shared out between the processes"
        self.tree = not single
        if single:
            log.warning("prompts and questions are not shared in training, each row runs by itself: %s", single)

    def train_step(
        self, population: Population, problems: Sequence[Problem], spare: Spare | None = None, temperature: float = 1.0
    ) -> tuple[StepResult, list[Rollout]]:
        """Take one RL step on `problems`: G rollouts each, dealt over the population's K prompts. Some may come from
        `spare`; the others are sampled, at a temperature that the loss corrects for, and returned. Raises ConfigError
        if the problems cannot be divided evenly among the processes."""
        started = time.monotonic()
        group, prompts = self.params.group_size, population.prompts
        rank, world = self.trainer.accelerator.process_index, self.trainer.accelerator.num_processes
        rows = [problem for problem in problems for _ in range(group)]
        if len(problems) % world:
            raise ConfigError(
                f"slow.problems_per_step: {len(problems)} problems cannot be dealt to {world} processes in whole "
                "groups; make it a multiple of their number"
            )
        share = len(rows) // world
        places = range(rank * share, (rank + 1) * share)
        dealt = (spare or Spare()).deal(problems, prompts, group)
        asked = [prompts[slot(p, group, len(prompts))] for p in places]
        self._batch = _Batch([rows[p] for p in places], asked, [dealt[p] for p in places], temperature)
        inputs = [
            {"prompt": self.policy.messages(prompt.text, problem.question)}
            for problem, prompt in zip(self._batch.problems, self._batch.prompts, strict=True)
        ]
        loss = self._optimize(inputs)
        mine, reused = zip(self._batch.rollouts, self._batch.reused, strict=True), [r for r in dealt if r]
        rollouts = ranks.everyones([rollout for rollout, old in mine if old is None])
        rewards = [r.reward for r in rollouts]
        result = StepResult(
            reward=sum(rewards) / len(rewards),
            groups=len(rows) // group,
            kept_groups=sum(ranks.everyones([self._batch.kept_groups])),
            loss=sum(ranks.everyones([loss])) / world,
            grad_norm=self._grad_norm,
            seconds=time.monotonic() - started,
            reused=len(reused),
            optimism=optimism(reused, rollouts),
            figures=self._figures,
        )
        return result, rollouts

    def _optimize(self, inputs: list[dict[str, Any]]) -> float:
        """Take one optimizer step, unless no group on any rank carries signal. Returns this rank's loss."""
        trainer = self.trainer
        torch.manual_seed(hash((self.seed, 2, self.step)) % 2**63)  # TRL shuffles the rows: alike after a resume
        trainer.model.train()
        batch = trainer._prepare_inputs(inputs)
        loss, self._grad_norm = 0.0, 0.0
        if sum(ranks.everyones([self._batch.kept_groups])):
            loss = accumulate(trainer, self.model, self.policy, batch, self.params.micro_tokens, self.tree)
            norm = trainer.accelerator.clip_grad_norm_(
                trainer.model.parameters(), self.params.max_grad_norm or float("inf")
            )
            self._grad_norm = float(norm)
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            trainer.model.zero_grad()
        trainer.model.eval()
        if not self.policy.engine.exact:
            free_cache()  # on this GPU a server that rested may be about to wake
        self.step += 1
        trainer._step = trainer.state.global_step = self.step
        self._figures = figures_of(trainer)
        return loss

    def sample(self, prompt_ids: Sequence[list[int]]) -> list[Answer]:
        """Sample answers to the batch's rows that are not reused; equal neighbouring requests share one prefill."""
        reused = self._batch.reused
        requests, n = grouped([ids for ids, old in zip(prompt_ids, reused, strict=True) if old is None])
        rank = self.trainer.accelerator.process_index
        seed = hash((self.seed, 1, self.step, rank)) % 2**63
        engine = self.policy.engine
        ranks.share(engine)
        groups = self.policy.answer_ids(requests, n, seed, self._batch.temperature)
        ranks.wait()  # all have their answers
        engine.rest()
        drawn = (answer for answers in groups for answer in answers)
        self._batch.answers = [Answer(o.tokens, o.logprobs, o.text) if o else next(drawn) for o in reused]
        return self._batch.answers

    def _reward(self, prompts: Any, completions: Any, **_: Any) -> list[float]:
        batch, asker = self._batch, Asker(self.policy, self.verify, "train", self.step)
        rows = zip(batch.problems, batch.prompts, batch.answers, batch.reused, strict=True)
        batch.rollouts = [old or asker.score(prompt, problem, answer) for problem, prompt, answer, old in rows]
        return [rollout.reward for rollout in batch.rollouts]

    def with_behaviour(self, output: dict[str, Any]) -> dict[str, Any]:
        """Add the log-probabilities that the answers were sampled with, unless all come from the current model at
        temperature 1. The loss then has the factor exp(log pi - log behaviour), capped at `ratio_cap`, for each token
        (CISPO's ratio, which is 1 up to rounding for answers of the current model)."""
        if self.policy.engine.exact and self._batch.temperature == 1 and not any(self._batch.reused):
            return output
        behaviour = torch.zeros_like(output["completion_ids"], dtype=torch.float32)
        for row, answer in enumerate(self._batch.answers):
            behaviour[row, : len(answer.logprobs)] = torch.tensor(answer.tempered or answer.logprobs)
        return {**output, "old_per_token_logps": behaviour}

    def weigh(self, output: dict[str, Any]) -> dict[str, Any]:
        """Drop the rows of zero-variance groups and weigh the rest prompt by prompt.

        If no group on this rank carries signal, one masked row stays, since other ranks may have rows.
        """
        batch, total = self._batch, output["advantages"].shape[0]
        rows = kept_rows(output["advantages"], self.params.group_size).to(output["advantages"].device)
        batch.kept_groups = len(rows) // self.params.group_size
        if not len(rows):
            rows = torch.zeros(1, dtype=torch.long, device=output["advantages"].device)
        kept = {
            key: value[rows] if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == total else value
            for key, value in output.items()
        }
        if not batch.kept_groups:
            kept["completion_mask"] = torch.zeros_like(kept["completion_mask"])
        lengths = kept["completion_mask"].sum(1)
        cells = [(batch.problems[i].id, batch.prompts[i].id) for i in rows.tolist()]
        share = self._share(int(lengths.sum()), len({c for c, n in zip(cells, lengths.tolist(), strict=True) if n}))
        kept["advantages"] = kept["advantages"] * (share * cell_weights(lengths, cells)).to(lengths.device)
        kept["num_items_in_batch"] = self.trainer.accelerator.gather(lengths.sum()).sum()
        return kept

    def _share(self, tokens: int, cells: int) -> float:
        """Return the factor from Eq. 4's weights over this rank's rows to those over all ranks' rows. Groups are never
        split across ranks, so each cell is whole on one of them, and only the totals differ."""
        everyones = ranks.everyones([(tokens, cells)])
        all_tokens, all_cells = (sum(column) for column in zip(*everyones, strict=True))
        return (all_tokens / tokens) * (cells / all_cells) if tokens else 0.0

    def save(self, folder: Path) -> None:
        """Write adapter, optimizer, schedule and step into `folder`."""
        save_adapter(self.trainer.model, folder)
        state = {
            "optimizer": self.trainer.optimizer.state_dict(),
            "scheduler": self.trainer.lr_scheduler.state_dict(),
            "step": self.step,
        }
        packed = io.BytesIO()
        torch.save(state, packed)
        (folder / "trainer.pt").write_bytes(packed.getvalue())  # torch's own writer hides disk errors

    def start_from(self, folder: Path) -> None:
        """Load an adapter that was trained before; optimizer and schedule start anew."""
        load_adapter(self.trainer.model, folder)

    def load(self, folder: Path) -> None:
        """Load what `save` wrote."""
        load_adapter(self.trainer.model, folder)
        state = torch.load(folder / "trainer.pt", map_location="cpu", weights_only=True)
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.trainer.lr_scheduler.load_state_dict(state["scheduler"])
        self.step = state["step"]
        self.trainer.state.global_step = self.step

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors by name."""
        return adapter_state(self.trainer.model)
