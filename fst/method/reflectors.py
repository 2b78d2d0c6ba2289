"""The reflector that params.yaml asks for, with what suits the model and the domain where a key is left to us."""

from __future__ import annotations

from fst.config import Params
from fst.data.types import Domain
from fst.method import ranks
from fst.models.lab.tokenizer import CHAT_TEMPLATE
from fst.models.policy import Policy
from fst.models.reflector import CallableReflector, PolicyReflector, PromptLimit, Reflector

PROBED = 8  # problems
AROUND_A_PROMPT = 128  # tokens of a general model's reply beside the prompt in it


def build_reflector(policy: Policy, params: Params, domain: Domain) -> Reflector:
    """Make the reflector of a run. `auto` as its style is "pairs" for the lab's base, however large, and "feedback" for
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
    """Whether a reward is for the reference answer and nothing around it, found by scoring both on a few problems.

    Only then does a prompt's likelihood of the reference answer say what reward it will bring. Where an answer at the
    end of some reasoning is right as well, it would favour prompts that forbid reasoning; where the reference answer is
    not right itself ("any correct solution"), it says nothing.
    """
    for problem in domain.train[:PROBED]:
        texts = problem.answer, f"Let us go through it step by step.\n\n{problem.answer}"
        try:
            alone, reasoned = (domain.verify(problem, text).reward for text in texts)
        except (
            Exception
        ):  # a verifier may be anyone's code; what it raises is met again, and said, at its first rollout
            return False
        if alone < 1 or reasoned >= 1:
            return False
    return True
