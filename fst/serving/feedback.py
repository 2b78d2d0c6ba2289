"""Recent responses, kept so that feedback can refer to them, and their rewards by the domain's verifier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst.data.domains import answer_verifier
from fst.data.types import Problem
from fst.data.verifiers import build_verifier
from fst.traffic.log import Position, Request, read, segments

REMEMBERED = 100_000  # responses
SEGMENTS = 3  # that are read again at a start


@dataclass(frozen=True)
class Remembered:
    """What a later feedback needs to know of a response."""

    tenant: str
    domain: str
    question: str
    response: str
    release: str


class Responses:
    """The last REMEMBERED responses by their ids."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Remembered] = OrderedDict()

    @classmethod
    def of_log(cls, folder: Path) -> Responses:
        """The responses of the log's last segments, for a gateway that starts again."""
        found, numbers = cls(), list(segments(folder))
        for record in read(folder, Position(numbers[-SEGMENTS]))[0] if len(numbers) >= SEGMENTS else read(folder)[0]:
            if isinstance(record, Request) and record.variant != "shadow":
                found.add(record)
        return found

    def add(self, request: Request) -> None:
        self._found[request.id] = Remembered(
            request.tenant, request.domain, request.question, request.response, request.release
        )
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)

    def get(self, response: str, tenant: str) -> Remembered | None:
        """A tenant's own response; None for an unknown id and, so that nothing is given away, for another tenant's."""
        found = self._found.get(response)
        return found if found and found.tenant == tenant else None


def reward_of(remembered: Remembered, answer: str, manifest: Mapping[str, Any]) -> float:
    """The reward in [0, 1] of a response, given the right answer, by its domain's verifier. Equality decides for a
    domain that the release does not serve, or whose verifier needs more of a problem than its answer."""
    facts = manifest["domains"].get(remembered.domain)
    verify = answer_verifier(facts["spec"]) if facts else build_verifier("exact", {"answer": "auto"})
    return verify(Problem("", remembered.domain, remembered.question, answer), remembered.response).reward
