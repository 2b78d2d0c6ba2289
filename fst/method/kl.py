"""KL divergence of the trained policy from the frozen base, in nats per token.

KL(pi_train || pi_base) is exact, over the full vocabulary at T=1, at every token of the given answers; both policies
read the same context and the same tokens (claim C3). It is zero without an adapter, or with an untrained one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from fst.models.likelihood import answer_states, chunks, head_logits
from fst.models.policy import Policy


def token_kl(trained_logits: torch.Tensor, base_logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(trained) || softmax(base)) over the vocabulary V, in nats; shapes (..., V) -> (...)."""
    trained = torch.log_softmax(trained_logits.float(), -1)
    base = torch.log_softmax(base_logits.float(), -1)
    return (trained.exp() * (trained - base)).sum(-1)


@torch.inference_mode()
def mean_kl(policy: Policy, contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> float:
    """Compute the mean token KL over all answer tokens, in nats per token; 0.0 for no tokens.

    contexts and answers are token ids, aligned; the answers were sampled from the trained policy.
    """
    total, count = 0.0, 0
    under = (nullcontext, policy.frozen_base)
    for _, (trained, base) in answer_states(policy.model, contexts, answers, policy.pad_id, under):
        for chunk in chunks(policy.model, len(trained)):
            kl = token_kl(head_logits(policy.model, trained[chunk]), head_logits(policy.model, base[chunk]))
            total += float(kl.sum())
        count += len(trained)
    return total / count if count else 0.0
