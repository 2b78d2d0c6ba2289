"""Tables of what can be chosen by name and added to: engines here, verifiers and domain families in fst/data.

A row is the thing itself, or "module:name" of it, imported when it is first asked for. Three ways to add one:

    a line in the table                        in this project
    @ENGINES.add("mine")                       in a script, before the name is used
    [project.entry-points."fst.engines"]       in an installed package: mine = "my_package:Mine"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from fst.errors import ConfigError, FstError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is close to this one, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class Table:
    """`rows` by name; `group` are the entry points that add to them, `error` what an unknown name raises."""

    group: str
    rows: dict[str, Any]
    error: type[FstError] = ConfigError

    def add(self, name: str) -> Callable[[T], T]:
        """A decorator that adds what it decorates under a name, in place of what had the name."""

        def added(row: T) -> T:
            self.rows[name] = row
            return row

        return added

    def names(self) -> list[str]:
        """The names of all rows, those of installed packages last."""
        return list(dict.fromkeys((*self.rows, *sorted(entry_points(group=self.group).names))))

    def known(self, name: str, where: str) -> str:
        """The name itself. Raises `error` for one that is not in the table; `where` says what named it, for instance
        the key of params.yaml."""
        if name not in self.rows and name not in (names := self.names()):
            listed = ", ".join(map(repr, names))
            raise self.error(f"{where}: {name!r} is none of {listed}{did_you_mean(name, names)}")
        return name

    def get(self, name: str, where: str) -> Any:
        """What has the name. Raises `error` for an unknown name, and for a row that cannot be imported."""
        self.known(name, where)
        try:
            row = self.rows[name] if name in self.rows else entry_points(group=self.group)[name].load()
            if isinstance(row, str):
                module, _, attribute = row.partition(":")
                row = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as exc:
            raise self.error(f"{where}: {name!r} cannot be loaded: {exc}") from exc
        return row


# Each is a class like fst.models.engines.engine.Engine. They are named here, and not in fst/models, because params.yaml
# is checked against the names without loading torch.
ENGINES = Table(
    "fst.engines",
    {
        "transformers": "fst.models.engines.in_process:TransformersEngine",
        "vllm": "fst.models.engines.vllm:VllmEngine",
    },
)
