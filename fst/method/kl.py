"""How far the trained policy has moved from the frozen base, as KL divergence in nats per token.

KL(pi_train || pi_base) over the full vocabulary at T=1, exact, at every token of given answers: both policies
read the same context and the same tokens (claim C3). Zero when there is no adapter or it has not been trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fst.models.likelihood import forced_logits
from fst.models.policy import Policy


@torch.inference_mode()
def token_kl(trained_logits: torch.Tensor, base_logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(trained) || softmax(base)) over the vocabulary V, in nats; shapes (..., V) -> (...)."""
    trained = torch.log_softmax(trained_logits.float(), -1)
    base = torch.log_softmax(base_logits.float(), -1)
    return (trained.exp() * (trained - base)).sum(-1)


@torch.inference_mode()
def mean_kl(policy: Policy, contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """Mean of the token KL over all answer tokens, in nats; 0.0 for no tokens.

    contexts and answers are token ids, aligned; the answers were sampled from the trained policy.
    """
    total, count = 0.0, 0
    trained = forced_logits(policy.model, contexts, answers, policy.pad_id)
    for rows, logits, targets in trained:
        with policy.frozen_base():
            pieces = forced_logits(policy.model, [contexts[i] for i in rows], [answers[i] for i in rows], policy.pad_id)
            base = torch.empty_like(logits)
            for sub_rows, sub_logits, _ in pieces:
                base[sub_rows, : sub_logits.shape[1]] = sub_logits
        seen = targets != -100
        kl = token_kl(logits[seen], base[seen])
        total += float(kl.sum())
        count += int(seen.sum())
    return total / count if count else 0.0
