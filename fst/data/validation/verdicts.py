"""Scores reference answers with their verifiers. Trouble that comes from a verifier rather than from a line is reported
once, at the first line that has it, with the number of the other lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fst.data.scoring import RAISED, remark
from fst.data.types import Problem, Verifier
from fst.data.verifiers import EACH, Named, OwnVerifiers, own, reference_of
from fst.errors import VerifierError

_OF_A_PROBLEM = re.compile(r"problem '.*?': ")


@dataclass(frozen=True)
class Check:
    """The reward of a problem's reference answer (None if it has none, or if there is trouble), the trouble with its
    verifier, and the verifier's name. Troubles with the same `cause` are the same; if it is empty, the trouble itself
    is the cause."""

    reward: float | None = None
    trouble: str | None = None
    verifier: str = ""
    cause: str = ""

    @property
    def same(self) -> str:
        """The key that is equal for troubles that are the same."""
        return self.cause or self.said

    @property
    def said(self) -> str:
        """The trouble without the problem's id."""
        return _OF_A_PROBLEM.sub("", self.trouble or "", count=1)


def check(problem: Problem, verify: Verifier, named: Named) -> Check:
    """Score a problem's reference answer with the domain's verifier, whose name and options are `named`."""
    name = str((own(problem) if named["name"] == EACH else named)["name"])
    try:
        if isinstance(verify, OwnVerifiers):
            verify.check(problem)
        reference = reference_of(problem, named)
        if reference is None:
            return Check(verifier=name)
        score = verify(problem, reference)
    except VerifierError as exc:
        return Check(None, str(exc), name)
    said = remark(score.feedback)
    if said.startswith(RAISED):
        raised = f"{name} raised {said.removeprefix(RAISED)}"
        return Check(None, raised, name, raised.partition(": ")[0])
    return Check(score.reward, None, name)


def told_once(checks: Sequence[Check]) -> list[Check]:
    """Keep a trouble that several problems share only at the first of them, and likewise the trouble of a verifier that
    gives none of several reference answers a reward."""
    judged = Counter(one.verifier for one in checks if one.reward is not None)
    nothing = Counter(one.verifier for one in checks if one.reward == 0)
    blind = {name for name, count in nothing.items() if count == judged[name] > 1}
    found = [_blind(one) if one.verifier in blind and one.reward == 0 else one for one in checks]
    times = Counter(one.same for one in found if one.trouble)
    seen: set[str] = set()
    told = []
    for one in found:
        more = times[one.same] - 1
        if one.trouble and one.same in seen:
            one = replace(one, trouble=None)
        elif one.trouble and more:
            seen.add(one.same)
            one = replace(one, trouble=f"here and for {more} more problem{'s' if more > 1 else ''}: {one.said}")
        told.append(one)
    return told


def _blind(one: Check) -> Check:
    return Check(None, f"{one.verifier} gives the problem's own reference answer reward 0", one.verifier)
