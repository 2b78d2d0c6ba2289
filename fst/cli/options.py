"""What several commands share: parameters and their overrides, options of trainings, and writing to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fst.config import Params

PARAMS_FILE: Final = Path("params.yaml")

Several = Parameter(consume_multiple=1)  # an option that takes one or more values
Reference = Annotated[
    str,
    Parameter(help="A channel, an id or the beginning of one (6 digits or more), or the folder of a bundle."),
]
Domain = Annotated[str, Parameter(help="A domain of params.yaml.")]
Verifier = Annotated[
    str | None,
    Parameter(
        help="What scores problems that name no verifier: a name such as choice, FILE.py:FUNCTION, or a JSON object of "
        "name and options."
    ),
]
Channel = Annotated[str | None, Parameter(help="Name of the channel; store.channel of params.yaml if not given.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of a command: a file, and single values in place of the file's."""

    params: Path = PARAMS_FILE
    """Parameter file; if there is none, the defaults apply."""
    set: Annotated[tuple[str, ...], Parameter(metavar="KEY=VALUE")] = ()
    """Override one parameter, e.g. loop.cycles=3; repeatable."""

    def read(self) -> Params:
        """The parameters. Raises ConfigError."""
        from fst.config import load_params

        path = self.params if self.params.exists() or self.params != PARAMS_FILE else None
        return load_params(path, self.overrides())

    def overrides(self) -> list[str]:
        """Values in place of the file's, as KEY=VALUE."""
        return list(self.set)

    def preset(self) -> str:
        """Where the parameters come from."""
        file = str(self.params) if self.params.exists() else "defaults"
        return ", ".join([file, *self.overrides()])


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings):
    """Parameters, and the model by an option of its own."""

    model: str | None = None
    """Directory, hub id or .gguf file of the policy; overrides model.base."""

    def overrides(self) -> list[str]:
        return [*self.set, *([f"model.base={self.model}"] if self.model else [])]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ModelSettings):
    """Parameters of trainings that are recorded in run folders."""

    runs: Path = Path("runs")
    """Folder of the run folders."""
    quiet: bool = False
    """Show no progress."""


SETTINGS, MODEL, TRAINING = Settings(), ModelSettings(), TrainingSettings()


def check_spec(spec: str) -> None:
    """Look at a domain's spec before anything heavy is imported. Raises UnknownDomain for one that no family reads,
    DataError for a problem file that cannot be read, VerifierError for a verifier that is none."""
    from fst.data.domains import verifier_of
    from fst.data.families.jsonl import ProblemFile, file_of

    if file_of(spec):
        ProblemFile.of(spec)
    verifier_of(spec)


def terminal(width: int = 110) -> Console:
    """A console of the terminal's width, or of `width` columns where the output goes elsewhere."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=width)


def show(*pages: RenderableType) -> None:
    """Print tables and lines as they are: no markup is read in them, and lines are not wrapped."""
    console = terminal()
    for page in pages:
        console.print(page, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(page, str))


def error_of(stderr: float, problems: int) -> str:
    """A standard error with the number of problems that it is over; one problem has none."""
    return f"± {stderr:.3f}, {problems} problems" if problems > 1 else "1 problem, too few for a standard error"


def lines(found: Iterable[str]) -> None:
    """Print each line as soon as it is known."""
    for line in found:
        print(line, flush=True)
