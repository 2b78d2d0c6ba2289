"""A domain's verifier, as commands and specs write it and as records and bundles store it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fst.data.code import code_sha256, names_code
from fst.data.types import EXACT, Domain
from fst.data.verifiers import EACH, answers_alone, named_verifier, own
from fst.errors import VerifierError


def written_verifier(text: str) -> dict[str, Any]:
    """Parse a verifier as a command or a spec writes it: its name, or a JSON object as in a line of a problem file.
    Raises VerifierError if it is neither."""
    try:
        return named_verifier(json.loads(text) if text.lstrip().startswith("{") else text)
    except ValueError as exc:
        raise VerifierError(f"the verifier {text!r} is no valid JSON: {exc}") from exc


def text_of(facts: Mapping[str, Any]) -> str:
    """Write `verifier_facts` as in a command or a spec; empty for none."""
    named = {key: value for key, value in facts.items() if key != "sha256"}
    return named["name"] if list(named) == ["name"] else json.dumps(named, ensure_ascii=False) if named else ""


def verifier_facts(domain: Domain) -> dict[str, Any]:
    """Return the verifier of a domain's live traffic: name and options of the one verifier of all its problems, with
    the hash of its file if it is code. Empty for plain equality, for problems with different verifiers, and for a
    verifier that needs more of a problem than traffic has."""
    named = {key: value for key, value in (domain.named or {}).items() if key != "answer"}  # that, the spec says
    if named.get("name") == EACH:
        ways = {json.dumps(own(problem), sort_keys=True) for problem in domain.problems}
        named = json.loads(ways.pop()) if len(ways) == 1 else {}
    if not named or named == EXACT or not answers_alone(named):
        return {}
    return {**named, "sha256": code_sha256(named["name"])} if names_code(named["name"]) else named
