"""Screening of prompts: the likelihood that the policy gives to expected answers under them, which costs no rollout."""

from __future__ import annotations

from collections.abc import Sequence

from fst.models.likelihood import answer_logprobs
from fst.models.policy import Policy


def answer_likelihoods(policy: Policy, asked: Sequence[tuple[str, str, str]]) -> tuple[list[float], int]:
    """Log-likelihood, in nats, of each answer in `asked`: (prompt, question, answer), its end token included; and the
    tokens read for it."""
    contexts = policy.encode([policy.messages(prompt, question) for prompt, question, _ in asked])
    tokenizer = policy.tokenizer
    answers = [
        [*ids, tokenizer.eos_token_id]
        for ids in tokenizer([answer for _, _, answer in asked], add_special_tokens=False)["input_ids"]
    ]
    logprobs = answer_logprobs(policy.model, contexts, answers, policy.pad_id)
    return logprobs, sum(map(len, contexts)) + sum(map(len, answers))
