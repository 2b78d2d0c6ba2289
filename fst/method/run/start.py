"""What a run takes over from the bundle it starts from: the prompts for its domain, and a key that identifies it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fst.config import Params
from fst.data.domains import seed_prompt
from fst.data.types import Domain
from fst.store.bundle import Bundle
from fst.types import Population, Prompt, prompt_from_dict


def carried_prompts(start: Bundle | None, spec: str, serves: str) -> list[dict[str, Any]]:
    """Return a bundle's prompts for a domain, found by its spec or by the name in the bundle; empty if it has none."""
    for name, domain in start.manifest["domains"].items() if start else ():
        if start and (domain["spec"] == spec or name == serves):
            return list(start.prompts()[name]["prompts"])
    return []


def first_population(start: Bundle | None, domain: Domain, params: Params, serves: str = "") -> Population:
    """Return the prompts that a run begins with: its start's prompts for this domain, or else the seed prompt."""
    carried = tuple(map(prompt_from_dict, carried_prompts(start, domain.spec, serves)))
    return Population(carried or (Prompt(seed_prompt(params.loop.seed_prompt, domain)),))


def start_key(start: Bundle | None, spec: str, serves: str = "") -> str | None:
    """Return the SHA-256 of what a run takes over from its start (the adapter, and the prompts for its domain), or None
    without a start."""
    if start is None:
        return None
    prompts = carried_prompts(start, spec, serves)
    adapter = [v["sha256"] for path, v in start.manifest["files"].items() if path.startswith("adapter/")]
    return hashlib.sha256(json.dumps([adapter, [prompts] if prompts else []]).encode()).hexdigest()
