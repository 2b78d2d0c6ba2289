"""What scores a domain, as commands and specs write it and as records and bundles tell it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fst.data.code import code_sha256, names_code
from fst.data.types import EXACT, Domain
from fst.data.verifiers import EACH, answers_alone, named_verifier, own
from fst.errors import VerifierError


def written_verifier(text: str) -> dict[str, Any]:
    """A verifier as a command or a spec gives it: its name, or the JSON object that a line of a problem file would
    have. Raises VerifierError."""
    try:
        return named_verifier(json.loads(text) if text.lstrip().startswith("{") else text)
    except ValueError as exc:
        raise VerifierError(f"the verifier {text!r} is no valid JSON: {exc}") from exc


def text_of(facts: Mapping[str, Any]) -> str:
    """`verifier_facts` as a command or a spec gives them; empty for none."""
    named = {key: value for key, value in facts.items() if key != "sha256"}
    return named["name"] if list(named) == ["name"] else json.dumps(named, ensure_ascii=False) if named else ""


def verifier_facts(domain: Domain) -> dict[str, Any]:
    """What scores a domain's live traffic: name and options of the one verifier that all problems name, with the hash
    of its file where it is code. Empty for plain equality, for problems that differ in it, and for a verifier that
    reads more of a problem than traffic has of it."""
    named = {key: value for key, value in (domain.named or {}).items() if key != "answer"}  # that, the spec says
    if named.get("name") == EACH:
        ways = {json.dumps(own(problem), sort_keys=True) for problem in domain.problems}
        named = json.loads(ways.pop()) if len(ways) == 1 else {}
    if not named or named == EXACT or not answers_alone(named):
        return {}
    return {**named, "sha256": code_sha256(named["name"])} if names_code(named["name"]) else named
