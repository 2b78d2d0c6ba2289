"""Two decisions of a fast round, behind GEPA's interfaces: which proposals are scored on the anchors, and which prompt
is reflected on. Both treat a reward as one noisy sample (fst/method/fast/trial.py)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gepa.core.state import GEPAState
from gepa.gepa_utils import select_program_candidate_from_pareto_front
from gepa.proposer.base import CandidateProposal

from fst.data.types import Problem
from fst.method.fast.demonstrations import read
from fst.method.fast.frontier import winners
from fst.method.fast.trial import gains, hopeless, parts
from fst.types import Prompt, Rollout, prompt_id

COMPONENT = "prompt"


@dataclass
class Acceptance:
    """Accepts a proposal that is at least as good as its parent on the minibatch (equally good ones are useful too: see
    `greedy_cover`) and is not given up on the anchors. `scored` keeps its rollouts on all anchors, by prompt id, for
    GEPA to fetch."""

    known: Mapping[str, Prompt]
    score: Callable[[Sequence[tuple[Prompt, Problem]]], list[Rollout]]
    anchors: Sequence[Problem]
    tie: float
    scored: dict[str, list[Rollout]]
    given_up: int = field(default=0, init=False)

    def should_accept(self, proposal: CandidateProposal[Any], state: GEPAState[Any, Any]) -> bool:
        before, after = proposal.subsample_scores_before or [], proposal.subsample_scores_after or []
        if sum(gains(before, after, self.tie)) < 0:
            return False
        parent = state.prog_candidate_val_subscores[proposal.parent_program_ids[0]]
        prompt, rollouts = self.known[prompt_id(proposal.candidate[COMPONENT])], list[Rollout]()
        shown = read(prompt.text).questions
        for part in parts(len(self.anchors)):
            rollouts += self.score([(prompt, problem) for problem in self.anchors[part]])
            told = [i for i in range(len(rollouts)) if self.anchors[i].question not in shown]
            gained = gains([parent[i] for i in told], [rollouts[i].reward for i in told], self.tie)
            if hopeless(gained, len(self.anchors) - len(rollouts)):
                self.given_up += 1
                return False
        self.scored[prompt.id] = rollouts
        return True


@dataclass
class Parents:
    """Draws the prompt to reflect on, weighted by how many anchors it wins: GEPA's own draw, but rewards may tie."""

    rng: random.Random
    tie: float

    def select_candidate_idx(self, state: GEPAState[Any, Any]) -> int:
        won = winners(dict(enumerate(state.prog_candidate_val_subscores)), self.tie)
        return int(select_program_candidate_from_pareto_front(won, state.per_program_tracked_scores, self.rng))
