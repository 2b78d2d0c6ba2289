"""The account of reflection in a fast round (its rollouts are counted elsewhere), and which proposals are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fst.models.reflector import Proposal
from fst.runs.outcome import SHOWN


@dataclass
class Screening:
    """Counts of one fast round: calls of the reflector and their errors, with the last error; refused proposals by
    reason, with the first few as samples; proposals drawn and screened, tokens, seconds. `longest` is the length, in
    tokens, of the longest prompt refused as too long."""

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
        """Whether to refuse a proposed text because it is empty, known, or longer than `limit` tokens. Counts the
        reason."""
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
