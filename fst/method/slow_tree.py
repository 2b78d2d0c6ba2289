"""Log-probabilities of answers for TRL's loss, each shared token run once (fst/models/tree.py)."""

from __future__ import annotations

from typing import Any

import torch

from fst.models.tree import encode_contexts


def tree_logprobs(
    model: Any, plain: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, answer: int, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each answer token, in nats: (rows, answer) both, 0 where the mask is 0.

    input_ids, attention_mask: (rows, context + answer), contexts padded on the left, answers on the right. `model` is
    what accelerate wrapped and TRL gave its fused head, `plain` the same without the wrapping. A row whose answer is
    masked altogether counts for nothing.
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
