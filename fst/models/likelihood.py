"""Forced scoring: the log-probabilities of known tokens. Used to screen prompts and to measure KL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

MAX_TOKENS = 8192  # per batch, padding included


def forced_logits(
    model: nn.Module, contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Logits at the answer tokens, in batches of similar length; A is the longest answer of a batch.

    Yields (rows, logits (len(rows), A, vocabulary), answer ids (len(rows), A), -100 after each answer's end);
    `rows` are indices into the inputs. Gradients flow unless the caller switches them off.
    """
    device = next(model.parameters()).device
    lengths = [len(c) + len(a) for c, a in zip(contexts, answers, strict=True)]
    order = sorted(range(len(contexts)), key=lengths.__getitem__)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= MAX_TOKENS:
            stop += 1
        rows = order[start:stop]
        widest = max(len(answers[i]) for i in rows)
        left = max(len(contexts[i]) for i in rows)
        ids = torch.full((len(rows), left + widest), pad_id, device=device)
        mask = torch.zeros((len(rows), left + widest), dtype=torch.long, device=device)
        targets = torch.full((len(rows), widest), -100, device=device)
        for row, i in enumerate(rows):
            context, answer = contexts[i], answers[i]
            first = left - len(context)
            ids[row, first : left + len(answer)] = torch.tensor([*context, *answer], device=device)
            mask[row, first : left + len(answer)] = 1
            targets[row, : len(answer)] = torch.tensor(list(answer), device=device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=widest + 1
        )
        yield rows, out.logits[:, :-1], targets
        start = stop


@torch.inference_mode()
def answer_logprobs(
    model: nn.Module, contexts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int
) -> list[float]:
    """Summed log-probability of each answer given its context, in nats."""
    totals = [0.0] * len(contexts)
    for rows, logits, targets in forced_logits(model, contexts, answers, pad_id):
        logprobs = torch.log_softmax(logits.float(), -1)
        picked = logprobs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        summed = (picked * (targets != -100)).sum(-1)
        for row, value in zip(rows, summed.tolist(), strict=True):
            totals[row] = value
    return totals
