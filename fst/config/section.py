"""The common base of the sections of params.yaml: frozen, strict about types, no unknown keys."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator


def _number(value: Any) -> Any:
    """Convert a text such as 1e-4, which YAML does not read as a number because it has no dot."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def as_tuple(value: Any) -> Any:
    """Convert a list from YAML to the tuple that a section keeps."""
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_number)]
Texts = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]


class Section(BaseModel):
    """Base of the sections. A whole number is taken where a `Number` is wanted; otherwise types are not converted.
    Building one directly raises pydantic's ValidationError; `fst.config.load_params` and `params_from_dict` raise
    ConfigError with the key's path."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, values: Any) -> Any:
        """A section without keys is None in YAML: all defaults."""
        return {} if values is None else values

    def as_dict(self) -> dict[str, Any]:
        """Nested values by the names that params.yaml gives them, in its order."""
        return self.model_dump(by_alias=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with some values changed, checked like a new one."""
        return self.model_validate({**self.as_dict(), **changes})
