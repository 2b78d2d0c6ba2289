"""Typed parameters: params.yaml, read into frozen objects.

    learning.py     the sections that decide what a run does
    releasing.py    domains, their stages, trackers, the gate, the store, the flows
    serving.py      the gateway and what watches it
    section.py      what all sections have in common
    mistakes.py     errors that name the key's path, and keys that were renamed

A section's class documents each of its keys: what it is, its unit, its range, its default (which is what params.yaml
ships). Unknown keys, wrong types and values out of range are refused before anything runs. `python -m fst.config`
prints the JSON schema that editors complete params.yaml with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from fst.config.learning import (
    PROPOSALS,
    Balance,
    EvaluateParams,
    FastParams,
    LoopParams,
    ModelParams,
    PrepareParams,
    ReflectorParams,
    Signal,
    SlowParams,
    VllmParams,
)
from fst.config.mistakes import config_error, upgraded
from fst.config.releasing import (
    BundleParams,
    DomainParams,
    FlowParams,
    GateParams,
    StoreParams,
    TrackParams,
    TrainParams,
    ValidateParams,
)
from fst.config.section import Section
from fst.config.serving import AdaptParams, AlertParams, DriftParams, ServeParams, TrafficParams
from fst.errors import ConfigError
from fst.tables import did_you_mean

__all__ = [
    "PROPOSALS", "AdaptParams", "AlertParams", "Balance", "BundleParams", "DomainParams", "DriftParams",
    "EvaluateParams", "FastParams", "FlowParams", "GateParams", "LoopParams", "ModelParams", "Params", "PrepareParams",
    "ReflectorParams", "ServeParams", "Signal", "SlowParams", "StoreParams", "TrackParams", "TrafficParams",
    "TrainParams", "ValidateParams", "VllmParams", "load_params", "params_from_dict", "params_from_record", "upgraded",
]  # fmt: skip

HUNG_SECONDS = 3600.0  # a round or stage that takes longer counts as hung, unless it draws much:
SLOWEST = 50  # tokens per second

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_RUN_SECTIONS = ("prepare", "model", "slow", "fast", "reflector", "loop", "evaluate")


class Params(Section):
    """All sections of params.yaml."""

    domains: Mapping[str, DomainParams] = Field({}, description="the domains by name, in the order of their arrival")
    prepare: PrepareParams = PrepareParams()
    validation: ValidateParams = Field(ValidateParams(), alias="validate")  # pydantic has `validate` for itself
    train: TrainParams = TrainParams()
    model: ModelParams = ModelParams()
    slow: SlowParams = SlowParams()
    fast: FastParams = FastParams()
    reflector: ReflectorParams = ReflectorParams()
    loop: LoopParams = LoopParams()
    evaluate: EvaluateParams = EvaluateParams()
    track: TrackParams = TrackParams()
    bundle: BundleParams = BundleParams()
    gate: GateParams = GateParams()
    store: StoreParams = StoreParams()
    flows: FlowParams = FlowParams()
    vllm: VllmParams = VllmParams()
    serve: ServeParams = ServeParams()
    traffic: TrafficParams = TrafficParams()
    drift: DriftParams = DriftParams()
    alerts: AlertParams = AlertParams()
    adapt: AdaptParams = AdaptParams()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.slow.group_size % self.fast.prompts:
            raise ConfigError(
                f"fast.prompts: K={self.fast.prompts} does not divide slow.group_size G={self.slow.group_size}; "
                "each problem's rollouts are dealt evenly over the prompts, so pick K among G's divisors"
            )
        if self.fast.minibatch > self.fast.anchors:
            raise ConfigError(f"fast.minibatch: {self.fast.minibatch} is more than fast.anchors ({self.fast.anchors})")
        if "temperature" in self.loop.signal and self.model.engine != "transformers":
            raise ConfigError(
                f"loop.signal: temperature needs model.engine: transformers; {self.model.engine} does not say how "
                "likely answers were at the temperature that they were drawn at"
            )
        if not self.fast.room(self.fast.budget, self.fast.carried)[1]:
            raise ConfigError(
                f"fast.budget: {self.fast.budget} rollouts leave none for a proposal beside scoring again what is "
                f"carried ({self.fast.carried}); {self.fast.budget_for(1)} do for one, "
                f"{self.fast.budget_for(PROPOSALS)} for {PROPOSALS}, and fewer with a smaller fast.minibatch"
            )
        known = ["base"]
        for name, domain in self.domains.items():
            if not _NAME.fullmatch(name) or name == "base":
                raise ConfigError(f"domains.{name}: a name is a-z, 0-9, - and _, from a letter, and not `base`")
            if domain.start not in known:
                earlier = ", ".join(known)
                raise ConfigError(f"domains.{name}.start: {domain.start!r} is none of those before it: {earlier}")
            known.append(name)
        return self

    def domain(self, name: str) -> DomainParams:
        """Return a domain by name. Raises ConfigError if there is no such domain."""
        if name not in self.domains:
            known = ", ".join(self.domains) or "none"
            raise ConfigError(f"domains.{name}: params.yaml has no such domain; it has: {known}")
        return self.domains[name]

    def of_domain(self, name: str) -> Params:
        """Return the parameters of a domain's stages: these with the domain's own overrides. Raises ConfigError."""
        own = self.domain(name).set
        try:
            return params_from_dict(overridden(self.as_dict(), own)) if own else self
        except ConfigError as exc:
            raise ConfigError(f"domains.{name}.set: {exc}") from exc

    def served_as(self, name: str) -> str:
        """Return the name of a domain in its bundle."""
        return self.domain(name).serves or name

    @property
    def rollout_budget(self) -> int:
        """The most learning rollouts per run: what `fst` may spend in all its cycles, unless set."""
        return self.loop.rollout_budget or self.loop.cycles * self.rollouts_per_cycle

    @property
    def rollouts_per_cycle(self) -> int:
        """Rollouts that `fst` may spend per cycle, on a fast round and a slow one."""
        return self.fast.budget + self.loop.steps_per_cycle * self.rollouts_per_step

    @property
    def rollouts_per_step(self) -> int:
        """Rollouts per RL step."""
        return self.slow.problems_per_step * self.slow.group_size

    @property
    def gate_limits(self) -> GateParams:
        """The gate's limits. If none is set for prompts, it is the longest prompt that training may make in any
        domain."""
        if self.gate.max_prompt_tokens is not None:
            return self.gate
        every = (self, *map(self.of_domain, self.domains))
        return self.gate.replace(max_prompt_tokens=max(params.fast.max_prompt_tokens for params in every))

    @property
    def flow_limits(self) -> FlowParams:
        """The time limits of the flows. One that is not set is the time to draw all tokens at the slowest pace, but at
        least an hour."""
        held_out = self.evaluate.samples * (self.prepare.validation + self.prepare.test)
        rollouts = {
            "round_seconds": self.rollouts_per_cycle + held_out,
            "stage_seconds": held_out * (self.fast.prompts + len(self.domains)),
        }
        slowest = {key: max(HUNG_SECONDS, n * self.model.max_new_tokens / SLOWEST) for key, n in rollouts.items()}
        return self.flows.replace(**{key: value for key, value in slowest.items() if getattr(self.flows, key) is None})

    def of_run(self) -> dict[str, Any]:
        """The sections that decide what a run does; domains, gate and store may change around it."""
        return {name: values for name, values in self.as_dict().items() if name in _RUN_SECTIONS}


def params_from_dict(values: Mapping[str, Any]) -> Params:
    """Check nested values and make the parameters. Raises ConfigError, which names the key's path."""
    try:
        return Params.model_validate(values)
    except ValidationError as exc:
        raise config_error(exc, Params) from exc


def params_from_record(values: Mapping[str, Any]) -> Params:
    """As `params_from_dict`, for values from a record, in which keys may have the names of older releases."""
    return params_from_dict(upgraded(values))


def load_params(path: Path | None, overrides: Sequence[str] = ()) -> Params:
    """Read a YAML file (None: the defaults) and apply overrides such as `slow.learning_rate=0.0005` or
    `domains.letters.spec=lab/reverse`, whose values are YAML.

    Raises ConfigError that names the file, or the key's path.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise ConfigError(f"{path}: no such file; name a params file with --params") from exc
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: not readable as YAML: {exc}") from exc
        if not isinstance(values, dict | None):
            raise ConfigError(f"{path}: expected sections with keys at the top")
    return params_from_dict(overridden(values or {}, overrides))


def overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Apply overrides to nested values; later ones override earlier ones."""
    for override in overrides:
        key, sign, text = override.partition("=")
        keys = key.split(".")
        if not sign or len(keys) < 2:
            raise ConfigError(f"--set {override}: write section.key=value, for example slow.learning_rate=0.0005")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise ConfigError(f"--set {override}: not readable as YAML; put the value in quotes: {exc}") from exc
        values = _with(values, keys, value)
    return values


def _with(values: Any, keys: Sequence[str], value: Any, path: str = "") -> Any:
    """Replace the nested value at `keys`; missing sections on the way to it are created."""
    if not keys:
        return value
    if not isinstance(values, Mapping | None):
        raise ConfigError(f"{path}: expected a section with keys, found {values!r}")
    inner, (key, *rest) = values or {}, keys
    if path == "domains" and rest and key not in inner:  # a typing mistake, rather than a domain without a spec
        known = did_you_mean(key, inner) or f"; it has: {', '.join(inner) or 'none'}"
        raise ConfigError(f"domains.{key}: params.yaml has no such domain{known}")
    return {**inner, key: _with(inner.get(key), rest, value, f"{path}.{key}" if path else key)}
