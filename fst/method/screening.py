"""What reflection did in a fast round, apart from rollouts: its account, and which proposals are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fst.models.reflector import Proposal
from fst.runs.outcome import SHOWN


@dataclass
class Screening:
    """How often the reflector was asked and how often it failed, with its last error; its proposals that were refused,
    by reason, and the first few of them; proposals drawn and screened, tokens, seconds. `longest` is the length in
    tokens of the longest prompt refused for it."""

    asked: int = 0
    errors: int = 0
    last_error: str = ""
    refused: dict[str, int] = field(default_factory=lambda: {"empty": 0, "known": 0, "too_long": 0})
    samples: list[str] = field(default_factory=list)
    longest: int = 0
    proposals: int = 0
    screened: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, proposal: Proposal) -> None:
        """Add what a proposal cost."""
        self.proposals += proposal.drawn
        self.screened += proposal.screened
        self.tokens += proposal.tokens
        self.seconds += proposal.seconds

    def refuses(self, text: str, known: frozenset[str], limit: int, count: Callable[[str], int]) -> bool:
        """Whether a proposed text is not worth a rollout: it is empty, known, or has more than `limit` tokens. The
        reason is counted."""
        tokens = count(text) if text else 0
        if not text or text in known:
            reason = "known" if text else "empty"
        elif tokens > limit:
            reason = "too_long"
            self.longest = max(self.longest, tokens)
        else:
            return False
        self.refused[reason] += 1
        if len(self.samples) < SHOWN:
            self.samples.append(f"    {reason}, {tokens} tokens of at most {limit}: {text[:200]!r}")
        return True
