"""Forced scoring: the likelihood of given tokens. Used to screen prompts and to measure KL.

Rows run as a tree, in slices (fst/models/slices.py), and the output head runs in chunks of tokens, so that memory does
not depend on the length of answers or the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from fst.models.slices import slices
from fst.models.tree import encode_contexts, plain_model, takes_tree

if TYPE_CHECKING:
    from fst.models.policy import Policy

MAX_TOKENS = 8192  # that run through the model at once
MAX_LOGITS = 2**24  # entries in a chunk of logits

Tokens = Sequence[int]


@torch.inference_mode()
def answer_states(
    model: nn.Module,
    contexts: Sequence[Tokens],
    answers: Sequence[Tokens],
    pad_id: int,
    under: Sequence[Callable[[], AbstractContextManager[None]]] = (nullcontext,),
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """Yield the last hidden state before each answer token, in batches of (rows, states). `rows` are indices into the
    inputs, without those of empty answers; `states` has one tensor (sum of the rows' answer lengths, width), in the
    order of `rows`, for each context manager of `under`, such as one that switches the adapter off."""
    filled = [i for i, answer in enumerate(answers) if answer]
    lengths = [len(answers[i]) for i in filled]
    cut = slices([contexts[i] for i in filled], lengths, MAX_TOKENS, takes_tree(model)) if filled else []
    for part in cut:
        rows = [filled[place] for place in part]
        states = []
        for manager in under:
            with manager():
                states.append(states_of(model, [contexts[i] for i in rows], [answers[i] for i in rows], pad_id))
        yield rows, states


def states_of(model: nn.Module, contexts: Sequence[Tokens], answers: Sequence[Tokens], pad_id: int) -> torch.Tensor:
    """Compute the last hidden state before each answer token, (sum of the answers' lengths, width), for one batch of
    rows whose answers are not empty. Gradients flow if they are enabled."""
    plain = plain_model(model)
    device = next(plain.parameters()).device
    leaves = encode_contexts(model, contexts, pad_id).spread(range(len(contexts)))
    longest = max(map(len, answers))
    ids = torch.full((len(answers), longest), pad_id)
    read = torch.zeros((len(answers), longest), dtype=torch.long)
    for row, (context, answer) in enumerate(zip(contexts, answers, strict=True)):
        ids[row, : len(answer)] = torch.tensor([context[-1], *answer[:-1]])
        read[row, : len(answer)] = 1
    ids, read = ids.to(device), read.to(device)
    out = plain.base_model(
        input_ids=ids,
        attention_mask=torch.cat([leaves.mask, read], -1),
        position_ids=leaves.lengths[:, None] + torch.arange(longest, device=device),
        past_key_values=leaves.cache,
        use_cache=True,
    )
    return out.last_hidden_state[read.bool()]


def head_logits(model: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Compute float32 logits (tokens, vocabulary) from hidden states (tokens, width), scaled and capped as in the
    model's own forward pass."""
    plain = plain_model(model)
    config = plain.config.get_text_config()
    logits = plain.get_output_embeddings()(states).float()
    logits = logits * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def chunks(model: nn.Module, tokens: int) -> Iterator[slice]:
    """Yield slices of consecutive tokens whose logits have at most MAX_LOGITS entries."""
    size = max(1, MAX_LOGITS // plain_model(model).config.get_text_config().vocab_size)
    for start in range(0, tokens, size):
        yield slice(start, start + size)


@torch.inference_mode()
def answer_logprobs(
    model: nn.Module, contexts: Sequence[Tokens], answers: Sequence[Tokens], pad_id: int
) -> list[float]:
    """Summed log-probability of each answer given its context, in nats."""
    totals = [0.0] * len(contexts)
    for rows, (states,) in answer_states(model, contexts, answers, pad_id):
        wanted = torch.tensor([token for i in rows for token in answers[i]], device=states.device)
        picked = torch.empty(len(wanted), device=states.device)
        for chunk in chunks(model, len(wanted)):
            logits = head_logits(model, states[chunk])
            picked[chunk] = logits.gather(-1, wanted[chunk, None])[:, 0] - torch.logsumexp(logits, -1)
        lengths = [len(answers[i]) for i in rows]
        for i, logprobs in zip(rows, picked.split(lengths), strict=True):
            totals[i] = float(logprobs.sum())
    return totals


def answer_likelihoods(policy: Policy, asked: Sequence[tuple[str, str, str]]) -> tuple[list[float], int]:
    """Compute the log-likelihood, in nats, of the answer in each (prompt, question, answer) of `asked`, including its
    end token. Returns the log-likelihoods and the number of tokens read. Screening prompts this way costs no
    rollout."""
    contexts = policy.encode([policy.messages(prompt, question) for prompt, question, _ in asked])
    tokenizer = policy.tokenizer
    answers = [
        [*ids, tokenizer.eos_token_id]
        for ids in tokenizer([answer for _, _, answer in asked], add_special_tokens=False)["input_ids"]
    ]
    logprobs = answer_logprobs(policy.model, contexts, answers, policy.pad_id)
    return logprobs, sum(map(len, contexts)) + sum(map(len, answers))
