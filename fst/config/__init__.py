"""Typed parameters: `params.yaml`, one section a stage, read into frozen objects.

Unknown keys, wrong types and out-of-range values are refused with the key's path, before anything runs.
The sections themselves, with their defaults: fst/config/sections.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fst.config.sections import (
    BundleParams,
    DomainParams,
    EvaluateParams,
    FastParams,
    FlowParams,
    GateParams,
    LoopParams,
    ModelParams,
    PrepareParams,
    ReflectorParams,
    SlowParams,
    StoreParams,
    TrainParams,
    ValidateParams,
)
from fst.config.sections_live import AdaptParams, AlertParams, DriftParams, ServeParams, TrafficParams, VllmParams
from fst.errors import ConfigError

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_RUN_SECTIONS = ("prepare", "model", "slow", "fast", "reflector", "loop", "evaluate")


@dataclass(frozen=True)
class Params:
    """All sections of params.yaml."""

    domains: Mapping[str, DomainParams] = field(default_factory=dict)
    prepare: PrepareParams = field(default_factory=PrepareParams)
    validate: ValidateParams = field(default_factory=ValidateParams)
    train: TrainParams = field(default_factory=TrainParams)
    model: ModelParams = field(default_factory=ModelParams)
    slow: SlowParams = field(default_factory=SlowParams)
    fast: FastParams = field(default_factory=FastParams)
    reflector: ReflectorParams = field(default_factory=ReflectorParams)
    loop: LoopParams = field(default_factory=LoopParams)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    bundle: BundleParams = field(default_factory=BundleParams)
    gate: GateParams = field(default_factory=GateParams)
    store: StoreParams = field(default_factory=StoreParams)
    flows: FlowParams = field(default_factory=FlowParams)
    vllm: VllmParams = field(default_factory=VllmParams)
    serve: ServeParams = field(default_factory=ServeParams)
    traffic: TrafficParams = field(default_factory=TrafficParams)
    drift: DriftParams = field(default_factory=DriftParams)
    alerts: AlertParams = field(default_factory=AlertParams)
    adapt: AdaptParams = field(default_factory=AdaptParams)

    def __post_init__(self) -> None:
        if self.slow.group_size % self.fast.prompts:
            raise ConfigError(
                f"fast.prompts: K={self.fast.prompts} does not divide slow.group_size G={self.slow.group_size}; "
                "each problem's rollouts are dealt evenly over the prompts, so pick K among G's divisors"
            )
        if self.fast.minibatch > self.fast.anchors:
            raise ConfigError(f"fast.minibatch: {self.fast.minibatch} is more than fast.anchors ({self.fast.anchors})")
        known = ["base"]
        for name, domain in self.domains.items():
            if not _NAME.fullmatch(name) or name == "base":
                raise ConfigError(f"domains.{name}: a name is a-z, 0-9, - and _, from a letter, and not `base`")
            if domain.start not in known:
                earlier = ", ".join(known)
                raise ConfigError(f"domains.{name}.start: {domain.start!r} is none of those before it: {earlier}")
            known.append(name)

    def domain(self, name: str) -> DomainParams:
        """A domain by its name. Raises ConfigError for one that is not there."""
        if name not in self.domains:
            known = ", ".join(self.domains) or "none"
            raise ConfigError(f"domains.{name}: params.yaml has no such domain; it has: {known}")
        return self.domains[name]

    def of_domain(self, name: str) -> Params:
        """What the stages of a domain work with: these, with its own overrides. Raises ConfigError."""
        own = self.domain(name).set
        if not own:
            return self
        bare = {key: dataclasses.replace(domain, set=()) for key, domain in self.domains.items()}
        values = dataclasses.replace(self, domains=bare).as_dict()
        try:
            changed = params_from_dict(_overridden(values, own))
        except ConfigError as exc:
            raise ConfigError(f"domains.{name}.set: {exc}") from exc
        return dataclasses.replace(changed, domains=self.domains)

    def served_as(self, name: str) -> str:
        """What the bundle of a domain calls it."""
        return self.domain(name).serves or name

    @property
    def rollout_budget(self) -> int:
        """Most learning rollouts of a run: what `fst` may spend in all its cycles, unless set."""
        per_cycle = self.fast.budget + self.loop.steps_per_cycle * self.rollouts_per_step
        return self.loop.rollout_budget or self.loop.cycles * per_cycle

    @property
    def rollouts_per_step(self) -> int:
        return self.slow.problems_per_step * self.slow.group_size

    def as_dict(self) -> dict[str, Any]:
        """Nested values, as `params_from_dict` takes them."""
        return dataclasses.asdict(self)

    def of_run(self) -> dict[str, Any]:
        """The sections that decide what a run does; domains, gate and store may change around it."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in _RUN_SECTIONS}


def _check_value(value: Any, kind: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, path)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{path}: {value!r} is none of {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, found {type(value).__name__}")
        inner = typing.get_args(kind)[1]
        return {k: v if inner is Any else _check_value(v, inner, f"{path}.{k}", {}) for k, v in value.items()}
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path}: expected a list, found {type(value).__name__}")
        return tuple(_check_value(v, typing.get_args(kind)[0], f"{path}[{i}]", {}) for i, v in enumerate(value))
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # YAML reads 1e-4 as a text
            value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{path}: expected {kind.__name__}, found {value!r}")
    low, high = metadata.get("low"), metadata.get("high")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{path}: {value!r} is out of range, it must be {bounds}")
    return value


def _build(kind: type[T], values: Any, path: str) -> T:
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'params'}: expected a section with keys, found {values!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    checked = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key{hint}")
        checked[key] = _check_value(value, hints[key], where, known[key].metadata)
    return kind(**checked)


def params_from_dict(values: Mapping[str, Any]) -> Params:
    """Check nested values and build Params. Raises ConfigError naming the key's path."""
    return _build(Params, values, "")


def load_params(path: Path | None, overrides: typing.Sequence[str] = ()) -> Params:
    """Read a YAML file (none: the defaults) and apply `section.key=value` overrides, values as YAML.

    Raises ConfigError naming the file, or the key's path.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise ConfigError(f"{path}: no such file; name a params file with --params") from exc
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: not readable as YAML: {exc}") from exc
        if not isinstance(loaded, (dict, types.NoneType)):
            raise ConfigError(f"{path}: expected sections with keys at the top")
        values = loaded or {}
    return params_from_dict(_overridden(values, overrides))


def _overridden(values: Mapping[str, Any], overrides: typing.Sequence[str]) -> dict[str, Any]:
    """Nested values with `section.key=value` overrides, values as YAML."""
    changed = dict(values)
    for override in overrides:
        key, sign, text = override.partition("=")
        section, dot, name = key.partition(".")
        if not sign or not dot:
            raise ConfigError(f"--set {override}: write section.key=value, for example slow.learning_rate=0.0005")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise ConfigError(f"--set {override}: not readable as YAML; put the value in quotes: {exc}") from exc
        named = changed.get(section) or {}
        if not isinstance(named, Mapping):
            raise ConfigError(f"{section}: expected a section with keys, found {named!r}")
        changed[section] = {**named, name: value}
    return changed
