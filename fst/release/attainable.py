"""Measures what prompts alone could reach on a domain: its task in plain words, under the weights of a release. For
measurements only; no code that learns imports this."""

from __future__ import annotations

from fst.config import load_params
from fst.data.domains import load_domain
from fst.data.lab.rules import instruction, parse_rule
from fst.data.types import SplitSizes
from fst.errors import ConfigError
from fst.release.adaptation import production_of
from fst.stages.measure import Served
from fst.stages.places import Places
from fst.types import Prompt


def attainable(channel: str, spec: str, plain: str = "") -> float:
    """Measure mean@n on held-out problems under the instruction `plain`, or, if that is empty, a lab rule's own words.
    Raises ConfigError if the channel has no release or there is no instruction, and UnknownDomain."""
    places = Places()
    params = load_params(places.params)
    domain = load_domain(spec, SplitSizes(1, 1, params.prepare.test), seed=0)
    served = Served.load(params, production_of(params, places, channel).adapter)
    return served.measure(domain, Prompt(plain or plain_words(spec))).accuracy


def plain_words(spec: str) -> str:
    """Return the words of a lab rule. Raises ConfigError for any other domain."""
    if not spec.startswith("lab/"):
        raise ConfigError(f"{spec}: say in the scenario what it asks: domains.NAME.instruction, in plain words")
    surface, _, rule = spec.removeprefix("lab/").rpartition(":")
    return instruction(parse_rule(rule), surface or "digits")
