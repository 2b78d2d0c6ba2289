"""Typed parameters: `params.yaml`, one section a stage, read into frozen objects.

Unknown keys, wrong types and out-of-range values are refused with the key's path, before anything runs.
Every field's default is what `params.yaml` ships; units stand in the names or in the field's comment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fst.errors import ConfigError

T = TypeVar("T")


def _bounded(default: Any, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class DataParams:
    """Problems a split; validation and test are the same for every seed."""

    train: int = _bounded(1024, 1)
    validation: int = _bounded(200, 1)
    test: int = _bounded(200, 1)


@dataclass(frozen=True)
class ModelParams:
    """The policy: a directory or hub id of a causal LM with a chat template. `lab` is the model shipped here."""

    base: str = "lab"
    max_new_tokens: int = _bounded(16, 1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = _bounded(2, 1)


@dataclass(frozen=True)
class SlowParams:
    """Slow weights: LoRA by RL. `ratio_cap` is tau, the absolute cap of the importance ratio (CISPO)."""

    problems_per_step: int = _bounded(16, 1)
    group_size: int = _bounded(8, 2)  # G: rollouts a problem
    learning_rate: float = _bounded(1e-3, 0)
    warmup_steps: int = _bounded(10, 0)
    ratio_cap: float = _bounded(4.0, 1)
    kl_penalty: float = _bounded(1e-3, 0)
    max_grad_norm: float = _bounded(1.0, 0)
    lora_rank: int = _bounded(16, 1)
    lora_alpha: int = _bounded(32, 1)
    trl: Mapping[str, Any] = field(default_factory=dict)  # any further TRL GRPOConfig option


@dataclass(frozen=True)
class FastParams:
    """Fast weights: K prompts by GEPA. `budget` is rollouts a round, re-scoring included."""

    prompts: int = _bounded(4, 1)  # K
    anchors: int = _bounded(32, 1)  # problems a prompt is scored on
    minibatch: int = _bounded(8, 1)  # problems a reflection reads
    budget: int = _bounded(400, 1)
    patience: int = _bounded(3, 1)  # proposals in a row that bring nothing, then the round ends
    max_prompt_tokens: int = _bounded(64, 1)


@dataclass(frozen=True)
class ReflectorParams:
    """Who writes prompts. `policy`: the frozen base itself, drawing `proposals` and screening them by
    likelihood; `endpoint`: an OpenAI-compatible server. `style`: `pairs` asks for a rule from
    (input, expected) pairs, as the lab base was taught; `feedback` gives a general LLM the full feedback."""

    kind: Literal["policy", "endpoint"] = "policy"
    style: Literal["pairs", "feedback"] = "pairs"
    proposals: int = _bounded(128, 1)
    max_new_tokens: int = _bounded(48, 1)
    temperature: float = _bounded(1.0, 0)
    base_url: str = "http://localhost:8000/v1"
    endpoint_model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    timeout_seconds: float = _bounded(60.0, 0)
    max_retries: int = _bounded(5, 0)


@dataclass(frozen=True)
class LoopParams:
    """The alternation: `cycles` times a fast round and `steps_per_cycle` (T) RL steps.

    `rollout_budget` bounds the learning rollouts (training and fast) of a run; 0 means the `fst` arm's own
    most, so that every arm may spend as much as `fst` does.
    """

    cycles: int = _bounded(10, 1)
    steps_per_cycle: int = _bounded(6, 1)  # T
    seed_prompt: str = "solve the task"
    rollout_budget: int = _bounded(0, 0)


@dataclass(frozen=True)
class EvaluationParams:
    """mean@`samples` at temperature 1 on the held-out problems; drift on the first `drift_problems` of them."""

    samples: int = _bounded(4, 1)
    drift_problems: int = _bounded(100, 1)


@dataclass(frozen=True)
class Params:
    """All sections of params.yaml."""

    data: DataParams = field(default_factory=DataParams)
    model: ModelParams = field(default_factory=ModelParams)
    slow: SlowParams = field(default_factory=SlowParams)
    fast: FastParams = field(default_factory=FastParams)
    reflector: ReflectorParams = field(default_factory=ReflectorParams)
    loop: LoopParams = field(default_factory=LoopParams)
    evaluation: EvaluationParams = field(default_factory=EvaluationParams)

    def __post_init__(self) -> None:
        if self.slow.group_size % self.fast.prompts:
            raise ConfigError(
                f"fast.prompts: K={self.fast.prompts} does not divide slow.group_size G={self.slow.group_size}; "
                "each problem's rollouts are dealt evenly over the prompts, so pick K among G's divisors"
            )
        if self.fast.minibatch > self.fast.anchors:
            raise ConfigError(f"fast.minibatch: {self.fast.minibatch} is more than fast.anchors ({self.fast.anchors})")

    @property
    def rollout_budget(self) -> int:
        """Most learning rollouts of a run: what `fst` may spend in all its cycles, unless set."""
        per_cycle = self.fast.budget + self.loop.steps_per_cycle * self.rollouts_per_step
        return self.loop.rollout_budget or self.loop.cycles * per_cycle

    @property
    def rollouts_per_step(self) -> int:
        return self.slow.problems_per_step * self.slow.group_size

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _check_value(value: Any, kind: Any, path: str, metadata: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, value, path)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{path}: {value!r} is none of {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if typing.get_origin(kind) is Mapping or kind is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, found {type(value).__name__}")
        return dict(value)
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
    for override in overrides:
        key, sign, text = override.partition("=")
        section, dot, name = key.partition(".")
        if not sign or not dot:
            raise ConfigError(f"--set {override}: write section.key=value, for example slow.learning_rate=0.0005")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise ConfigError(f"--set {override}: not readable as YAML; put the value in quotes: {exc}") from exc
        named = values.get(section) or {}
        if not isinstance(named, Mapping):
            raise ConfigError(f"{section}: expected a section with keys, found {named!r}")
        values = {**values, section: {**named, name: value}}
    return params_from_dict(values)
