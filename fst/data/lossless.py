"""Python values as JSON and back, equal to what they were: tuples, sets, keys that are no text, NaN and infinity.

What JSON has is written as it is. Anything else becomes an object with a single key that begins with `$`; an object
of the user's with such a key is written as pairs.
"""

from __future__ import annotations

import math
from typing import Any


def encode(value: Any) -> Any:
    """A value that json.dumps writes as strict JSON. Raises TypeError for a type that cannot be written down."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {f"${type(value).__name__}": sorted((encode(item) for item in value), key=repr)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"$dict": [[encode(key), encode(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__}")


def decode(value: Any) -> Any:
    """What `encode` was given. Raises ValueError for an object with a `$` key that `encode` does not write."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: decode(item) for key, item in value.items()}
    try:
        ((key, inner),) = value.items()
        if key == "$dict":
            return {decode(name): decode(item) for name, item in inner}
        makers = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
        return float(inner) if key == "$float" else makers[key](map(decode, inner))
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"an object that nothing reads: {sorted(value)}") from exc
