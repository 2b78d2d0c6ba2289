"""What prompts alone could reach on a lab domain: its rule in plain words, under the weights of a release. Only for
measuring; nothing that learns imports this."""

from __future__ import annotations

from fst.config import load_params
from fst.data.domains import load_domain
from fst.data.lab.rules import instruction, parse_rule
from fst.data.types import SplitSizes
from fst.release.adaptation import production_of
from fst.stages.measure import Served
from fst.stages.places import Places
from fst.types import Prompt


def attainable(channel: str, spec: str) -> float:
    """mean@n on held-out problems under the rule's own words. Raises ConfigError, UnknownDomain."""
    places = Places()
    params = load_params(places.params)
    surface, _, rule = spec.removeprefix("lab/").rpartition(":")
    domain = load_domain(spec, SplitSizes(1, 1, params.prepare.test), seed=0)
    served = Served.load(params, production_of(params, places, channel).adapter)
    return served.measure(domain, Prompt(instruction(parse_rule(rule), surface or "digits"))).accuracy
