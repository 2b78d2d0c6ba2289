"""Remembers recent responses, so that feedback can refer to them, and scores them with the domain's verifier."""

from __future__ import annotations

import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fst.data.code import code_sha256, names_code, names_file
from fst.data.domains import answer_verifier, verifier_of
from fst.data.types import Problem, Verifier
from fst.data.verifiers import build_verifier
from fst.errors import MissingDependency, VerifierError
from fst.files import is_inner_path
from fst.serving.openai import BadRequest, only
from fst.traffic.log import Feedback, Position, Request, read, segments

REMEMBERED = 100_000  # responses
SEGMENTS = 3  # of the log that are read again at a start
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remembered:
    """What is kept of a response for later feedback on it."""

    tenant: str
    domain: str
    question: str
    response: str
    release: str
    trace: str = ""  # the traceparent of its span, if spans are sent


class Responses:
    """The last REMEMBERED responses by their ids."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Remembered] = OrderedDict()

    @classmethod
    def of_log(cls, folder: Path) -> Responses:
        """Read the responses in the log's last segments, for a gateway that is restarted."""
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

    def traced(self, response: str, trace: str) -> None:
        """Remember the span of a response."""
        if found := self._found.get(response):
            self._found[response] = replace(found, trace=trace)

    def get(self, response: str, tenant: str) -> Remembered | None:
        """Return a tenant's own response; None for an unknown id and, so as not to reveal it, for another tenant's."""
        found = self._found.get(response)
        return found if found and found.tenant == tenant else None


def said(values: Mapping[str, Any], tenant: str) -> Feedback:
    """Read the feedback in a request's body, with the reward that the client gives. Raises BadRequest, which names the
    field."""
    only(dict(values), frozenset(("id", "answer", "reward", "comment")))
    response, answer, reward, comment = (values.get(key) for key in ("id", "answer", "reward", "comment"))
    if not isinstance(response, str) or not isinstance(answer, (str, type(None))):
        raise BadRequest("id and answer: expected strings")
    if not isinstance(comment, (str, type(None))):
        raise BadRequest("comment: expected a string")
    is_number = isinstance(reward, (int, float)) and not isinstance(reward, bool)
    if reward is not None and not (is_number and 0 <= reward <= 1):
        raise BadRequest("reward: expected a number from 0 to 1")
    if answer is None and reward is None and not comment:
        raise BadRequest("send at least one of answer, reward and comment")
    return Feedback(response, time.time(), tenant, reward, answer, comment or "", "client")


def reward_of(remembered: Remembered, answer: str, manifest: Mapping[str, Any]) -> float | None:
    """Score a response, given the right answer, with its domain's verifier; returns a reward in [0, 1]. Equality
    decides for a domain that the release does not serve, or whose verifier needs more of a problem than its answer.
    Returns None if the domain's verifier is not available here (see `verifier_here`)."""
    facts = manifest["domains"].get(remembered.domain)
    verify = verifier_here(facts) if facts else build_verifier("exact", {"answer": "auto"})
    asked = Problem("", remembered.domain, remembered.question, answer)
    return verify(asked, remembered.response).reward if verify else None


def verifier_here(facts: Mapping[str, Any]) -> Verifier | None:
    """Build the verifier of a domain from its entry in a release's manifest. Returns None if its library is not
    installed, or if it is code and no file below the working directory has the SHA-256 in the manifest: a release
    contains no code, and only code that it names is run."""
    named = dict(facts.get("verifier") or verifier_of(facts["spec"]))
    sha256 = named.pop("sha256", None)
    if names_code(named["name"]) and not _is_here(named["name"], sha256):
        return None
    try:
        return answer_verifier(facts["spec"], named)
    except MissingDependency as exc:
        _warn(f"answers to {facts['spec']} cannot be scored here; rewards given by clients are used instead: {exc}")
        return None


@functools.lru_cache(maxsize=64)  # once for each
def _warn(sentence: str) -> None:
    _log.warning("%s", sentence)


@functools.lru_cache(maxsize=64)  # one warning for each; a file that is put in place counts after a restart
def _is_here(name: str, sha256: str | None) -> bool:
    try:
        here = names_file(name) and is_inner_path(name.rpartition(":")[0]) and code_sha256(name) == sha256
    except VerifierError:
        here = False
    if not here:
        _log.warning(
            "there is no file of the verifier %s with the release's sha256 (%s): put it below %s and restart; until "
            "then rewards given by clients are used instead",
            name,
            sha256,
            Path.cwd(),
        )
    return here
