"""What pydantic finds wrong with values, in words that name the key's path and say what would be right."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fst.config.section import Section
from fst.errors import ConfigError
from fst.tables import did_you_mean

RENAMED = {"evaluate.drift_problems": "evaluate.kl_problems"}
"""Paths of keys in older records, and what they are now. Records are read with them; in params.yaml they are errors."""

_TYPES = {"int_type": "int", "float_type": "float", "string_type": "str", "bool_type": "bool"}


def upgraded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters from a record (a run's config.json, a bundle's manifest), with the names that keys have now."""
    found = dict(params)
    for old, new in RENAMED.items():
        section, key = old.split(".")
        name = new.removeprefix(f"{section}.")
        if key in found.get(section, {}):
            found[section] = {name if k == key else k: value for k, value in found[section].items()}
        for domain, facts in found.get("domains", {}).items():
            own = [text.replace(f"{old}=", f"{new}=", 1) for text in facts.get("set", ())]
            found["domains"] = {**found["domains"], domain: {**facts, "set": own}}
    return found


def config_error(invalid: ValidationError, root: type[Section]) -> ConfigError:
    """The first mistake in values of `root`; keys that do not exist come before wrong values, which often follow from
    them."""
    mistakes = sorted(invalid.errors(), key=lambda mistake: mistake["type"] not in ("extra_forbidden", "invalid_key"))
    kind, location, value = mistakes[0]["type"], mistakes[0]["loc"], mistakes[0]["input"]
    path = _dotted(location)
    owner, field = _place(root, location)
    if kind in ("extra_forbidden", "invalid_key"):
        return ConfigError(f"{path}: unknown key{_hint(path, str(location[-1]), owner)}")
    if kind == "model_type":
        return ConfigError(f"{path or 'params'}: expected a section with keys, found {value!r}")
    if kind in ("dict_type", "tuple_type"):
        wanted = "a mapping" if kind == "dict_type" else "a list"
        return ConfigError(f"{path}: expected {wanted}, found {type(value).__name__}")
    if kind in _TYPES:
        return ConfigError(f"{path}: expected {_TYPES[kind]}, found {value!r}")
    if kind == "literal_error" and field:
        return ConfigError(f"{path}: {value!r} is none of {', '.join(map(repr, typing.get_args(field.annotation)))}")
    if kind in ("greater_than_equal", "less_than_equal") and field:
        return ConfigError(f"{path}: {value!r} is out of range, it must be {_range(field)}")
    return ConfigError(f"{path}: {mistakes[0]['msg']}, found {value!r}")


def _dotted(location: Sequence[int | str]) -> str:
    """`domains.letters.set[0]`."""
    path = ""
    for part in (part for part in location if part != "[key]"):
        path += f"[{part}]" if isinstance(part, int) and path else f".{part}" if path else str(part)
    return path


def _place(root: type[Section], location: Sequence[int | str]) -> tuple[type[Section], FieldInfo | None]:
    """The section that a location is in, and its field there, where it is one."""
    owner, field = root, None
    for part in location:
        field = next((f for name, f in owner.model_fields.items() if part == (f.alias or name)), None)
        kinds = [field.annotation, *typing.get_args(field.annotation)] if field else [owner]
        owner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), owner)
    return owner, field


def _hint(path: str, key: str, owner: type[Section]) -> str:
    if path in RENAMED:
        return f"; its name is {RENAMED[path]} now"
    known = [field.alias or name for name, field in owner.model_fields.items()]
    return did_you_mean(key, known) or f"; known keys: {', '.join(known)}"


def _range(field: FieldInfo) -> str:
    low = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    return f"at least {low}" if high is None else f"between {low} and {high}"
