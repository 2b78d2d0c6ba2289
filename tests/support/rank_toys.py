"""One process of several: for each case a step of new slow weights on scripted answers, its advantages and gradient
saved.

python -m support.rank_toys MODEL OUT        under torchrun's environment, or alone
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from fst.config import ModelParams
from fst.method.run import ranks
from fst.method.slow.dealing import slot
from fst.method.slow.reuse import Spare, spare
from fst.models.policy import Policy, load_policy
from fst.models.sampler import Answer
from fst.types import Rollout
from support.slow_toys import PROBLEMS, Watched, drawn, population, verify

GROUP = 4
CASES = {"all": (), "silent": range(8, 16), "mute": range(16), "reused": ()}
REUSED = (0, 6, 8)  # places of rollouts that a fast round had already, in the case of that name
LENGTHS = (3, 8, 1, 5, 2, 7, 4, 6, 8, 8, 1, 2, 3, 5, 2, 1)  # four problems, unequal on the two ranks


def mixed(answers: list[Answer]) -> bool:
    """Whether every group has right and wrong answers."""
    rewards = [verify(PROBLEMS[i // GROUP], answer.text).reward for i, answer in enumerate(answers)]
    return all(len(set(rewards[i : i + GROUP])) == 2 for i in range(0, len(rewards), GROUP))


def scripted(policy: Policy, case: str) -> list[Answer]:
    """Answers of all rows. `silent`: those of rank 1 are equal within each group, so that it has no signal; `mute`:
    everyone's are."""
    answers = next(found for seed in count() if mixed(found := drawn(policy, LENGTHS, seed)))
    answers = [replace(a, logprobs=(-5.0,) * len(a.tokens)) for a in answers]
    return [answers[i // GROUP * GROUP] if i in CASES[case] else answer for i, answer in enumerate(answers)]


def had(answers: list[Answer]) -> Spare:
    """The rollouts that are reused, with the answers of the script."""
    found = []
    for place in REUSED:
        answer, problem = answers[place], PROBLEMS[place // GROUP]
        reward, prompt = verify(problem, answer.text).reward, population(2).prompts[slot(place, GROUP, 2)]
        what = (answer.text, answer.tokens, answer.logprobs, reward)
        found.append(Rollout("fast", problem.id, prompt.id, 0, *what, ""))
    return spare(found)


def take_step(model: str, out: Path, case: str) -> dict[str, Any]:
    """What a step of the case finds: advantages, gradient, figures, rollouts."""
    policy = load_policy(ModelParams(base=model, max_new_tokens=8))
    slow = Watched(policy, out, problems_per_step=4, group_size=GROUP, kl_penalty=0.05, max_grad_norm=0.0)
    slow.perturb()
    answers, share = scripted(policy, case), len(LENGTHS) // ranks.world()
    slow.script = [answers[ranks.rank() * share : (ranks.rank() + 1) * share]]
    result, rollouts = slow.train_step(population(2), PROBLEMS[:4], had(answers) if case == "reused" else None)
    return {
        "advantages": slow.before["advantages"],
        "gradient": slow.gradient,
        "reward": result.reward,
        "reused": (result.reused, result.optimism),
        "kept_groups": result.kept_groups,
        "loss": result.loss,
        "rollouts": [(r.problem_id, r.prompt_id, r.text, r.reward) for r in rollouts],
    }


def main(model: str, out: str) -> None:
    warnings.simplefilter("ignore")
    found = {case: take_step(model, Path(out), case) for case in CASES}
    torch.save(found, Path(out) / f"rank-{ranks.rank()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
