"""A proposal's trial: how long it is scored on the anchors before it is given up. Pure functions of rewards.

A reward is one noisy sample, so a prompt that passes its minibatch is often no better than its parent, and scoring it
on all anchors is the most expensive part of a round. The anchors are therefore scored in parts, and after each part but
the last the proposal is given up if it would end below its parent even though it answered the rest as well as its
parent does (stochastic curtailment: Lan, Simon and Halperin, 1982, on differences in pairs).

Invariants, each with a test: T1 the parts are the anchors, each once and in order, none shorter than `PART` unless all
are; T2 rewards that tie count as equal, and only `tie` decides what ties; T3 a proposal that is not behind is never
given up, nor one whose anchors are all scored; T4 with the same gains, a proposal that is given up early would also be
given up later; T5 doubling the rewards leaves the decision the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

PART = 32  # anchors; a smaller part saves little and makes batches inefficiently small
CONFIDENCE = 0.9  # that a proposal that is given up would have ended below its parent
_Z = NormalDist().inv_cdf(CONFIDENCE)


def tied(one: float, other: float, tie: float) -> bool:
    """Whether two rewards count as equal: they differ by at most `tie` as a share of the larger one."""
    return min(one, other) >= max(one, other) * (1 - tie)


def gains(before: Sequence[float], after: Sequence[float], tie: float) -> list[float]:
    """Return by how much each reward in `after` exceeds that on the same problem in `before`; 0 where they tie."""
    return [0.0 if tied(old, new, tie) else new - old for old, new in zip(before, after, strict=True)]


def parts(anchors: int) -> list[slice]:
    """Split a number of anchors into the parts that are scored one after the other."""
    starts = range(0, max(1, anchors - PART + 1), PART)
    return [slice(start, start + PART if start != starts[-1] else anchors) for start in starts]


def hopeless(gained: Sequence[float], left: int) -> bool:
    """Whether to give up a proposal with these gains over its parent and `left` anchors still to be scored.

    The remaining gain is modelled as a sum of `left` differences with mean zero and the mean square seen so far, which
    is approximately normal; T3 and T5 do not depend on that.
    """
    spread = math.sqrt(left * sum(gain * gain for gain in gained) / max(1, len(gained)))
    return left > 0 and sum(gained) + _Z * spread < 0
