"""Builds the reflector that params.yaml asks for, with defaults that suit the model and the domain."""

from __future__ import annotations

from fst.config import Params
from fst.data.types import Domain
from fst.method.run import ranks
from fst.models.lab.tokenizer import CHAT_TEMPLATE
from fst.models.policy import Policy
from fst.models.reflector import CallableReflector, PolicyReflector, PromptLimit, Reflector

PROBED = 8  # problems that the verifier is probed with
AROUND_A_PROMPT = 128  # tokens of a general model's reply besides the prompt in it


def build_reflector(policy: Policy, params: Params, domain: Domain) -> Reflector:
    """Make the reflector of a run. The style `auto` means "pairs" for the lab's base of any size, and "feedback" for
    every other model."""
    r = params.reflector
    limit = PromptLimit(params.fast.max_prompt_tokens, policy.count_tokens)
    if r.kind == "endpoint":
        from fst.models.endpoint import EndpointReflector  # here, since its client takes a second to import

        asked = CallableReflector(EndpointReflector(r), limit)
        return ranks.FirstAsks(asked) if ranks.sharded() else asked
    lab = policy.tokenizer.chat_template == CHAT_TEMPLATE
    pairs = r.style == "pairs" or (r.style == "auto" and lab)
    proposals, max_new_tokens = (128, 48) if pairs else (4, limit.tokens + AROUND_A_PROMPT)
    return PolicyReflector(
        policy,
        r.proposals or proposals,
        r.max_new_tokens or max_new_tokens,
        r.temperature,
        "pairs" if pairs else "feedback",
        r.weights,
        limit,
        screens=pairs or answer_alone_counts(domain),
    )


def answer_alone_counts(domain: Domain) -> bool:
    """Whether the verifier rewards the reference answer only when it stands alone, found by scoring a few problems.

    Only then does the likelihood of the reference answer under a prompt predict the reward. If an answer after some
    reasoning is right as well, the likelihood would favour prompts that forbid reasoning; if the reference answer
    itself is not right ("any correct solution"), the likelihood says nothing.
    """
    for problem in domain.train[:PROBED]:
        texts = problem.answer, f"Let us go through it step by step.\n\n{problem.answer}"
        try:
            alone, reasoned = (domain.verify(problem, text).reward for text in texts)
        except Exception:  # a user's verifier may raise anything; its first rollout raises the same and reports it
            return False
        if alone < 1 or reasoned >= 1:
            return False
    return True
