"""Gradients of a scored TRL batch, slice by slice, with contexts shared as a tree (fst/models/tree.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from fst.method.run import ranks
from fst.models.policy import Policy
from fst.models.slices import slices
from fst.models.tree import encode_contexts

_ANSWERS = ("completion_ids", "completion_mask", "old_per_token_logps", "tool_mask")
_CONTEXTS = ("prompt_ids", "prompt_mask")


def accumulate(trainer: Any, model: Any, policy: Policy, batch: dict[str, Any], budget: int, tree: bool) -> float:
    """Add the gradient of TRL's loss over a batch, in slices of `budget` tokens; returns the loss. `model` is the model
    as accelerate wrapped it.

    Every rank runs the same number of slices, because TRL gathers figures in each: ranks with fewer repeat their last
    one, masked. TRL divides by all tokens of the batch, so the slices' losses add up to the batch's.
    """
    rows = zip(batch["prompt_ids"], batch["prompt_mask"].bool(), strict=True)
    contexts = [ids[seen].tolist() for ids, seen in rows]
    parts = [trimmed(batch, rows) for rows in slices(contexts, batch["completion_mask"].sum(1).tolist(), budget, tree)]
    count = max(ranks.everyones([len(parts)]))
    idle = {**parts[-1], "completion_mask": torch.zeros_like(parts[-1]["completion_mask"])}
    parts += [idle] * (count - len(parts))
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = count
    total = 0.0
    for place, part in enumerate(parts):
        last = trainer.accelerator.sync_gradients = place + 1 == count  # DeepSpeed steps by it
        with contextlib.nullcontext() if last else trainer.accelerator.no_sync(model):
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, _with_base(trainer, policy, part))
            trainer.accelerator.backward(loss)
        total += float(loss.detach())
    trainer.args.steps_per_generation = 1  # TRL cuts what it generates by it
    return total


def _with_base(trainer: Any, policy: Policy, part: dict[str, Any]) -> dict[str, Any]:
    """Add the frozen base's log-probabilities if the loss has a KL term."""
    if not trainer.beta:
        return part
    ids = torch.cat([part["prompt_ids"], part["completion_ids"]], 1)
    mask = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
    with torch.no_grad(), policy.frozen_base():
        base, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, part["completion_ids"].shape[1]
        )
    return {**part, "ref_per_token_logps": base}


def tree_logprobs(
    model: Any, plain: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, answer: int, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each answer token, in nats: (rows, answer) both, 0 where the mask is 0.

    input_ids, attention_mask: (rows, context + answer), contexts padded on the left, answers on the right. `model` is
    the model as accelerate wrapped it, with TRL's fused head; `plain` is the same without the wrapping. A row whose
    answer is fully masked does not contribute.
    """
    rows = zip(input_ids[:, :-answer], attention_mask[:, :-answer].bool(), strict=True)
    contexts = [ids[seen].tolist() for ids, seen in rows]
    leaves = encode_contexts(plain, contexts, pad_id).spread(range(len(contexts)))
    ids, mask = input_ids[:, -answer:], attention_mask[:, -answer:]
    last = torch.tensor([[context[-1]] for context in contexts], device=ids.device)
    out = model(
        input_ids=torch.cat([last, ids[:, :-1]], -1),
        attention_mask=torch.cat([leaves.mask, torch.ones_like(last), mask[:, :-1]], -1),
        position_ids=leaves.lengths[:, None] + torch.arange(answer, device=ids.device),
        past_key_values=leaves.cache,
        shift_labels=ids.masked_fill(mask == 0, -100),
        fused_lm_head=True,
    )
    return out.log_probs, out.entropy


def trimmed(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Select rows of a TRL batch and drop the columns that are padding in all of them: on the left of contexts, on the
    right of answers. Entries that are not tensors with one item per row stay as they are."""
    total = batch["completion_ids"].shape[0]
    picked = torch.tensor(list(rows), device=batch["completion_ids"].device)
    part = {
        key: value[picked] if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == total else value
        for key, value in batch.items()
    }
    answer = max(1, int(part["completion_mask"].sum(1).max()))
    context = max(1, int(part["prompt_mask"].sum(1).max()))
    width = batch["completion_ids"].shape[1]
    for key, value in part.items():
        if key in _CONTEXTS:
            part[key] = value[:, -context:]
        elif key in _ANSWERS and isinstance(value, torch.Tensor) and value.shape[-1] == width:
            part[key] = value[:, :answer]
    return part
