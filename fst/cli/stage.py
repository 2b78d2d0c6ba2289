"""`fst stage`: the stages of dvc.yaml, one at a time, on a domain of params.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from fst.cli.options import SETTINGS, Domain, Settings, error_of, show
from fst.commandline import goes_on

if TYPE_CHECKING:
    from fst.stages.workspace import Workspace

stage = App(name="stage", help="Run one stage of dvc.yaml. `dvc repro` runs those that are out of date, in order.")


@stage.command
def base(*, settings: Settings = SETTINGS) -> None:
    """Pack the untrained model, which a first domain builds on: models/bundles/base/.

    Example: fst stage base
    """
    from fst.stages import base
    from fst.stages.workspace import Workspace
    from fst.store.bundle import read_bundle

    folder = base.base(Workspace(settings.read()))
    show(f"{folder}: bundle {read_bundle(folder).id}")


@stage.command
def prepare(name: Domain, /, *, settings: Settings = SETTINGS) -> None:
    """Deal a domain's problems into splits: data/prepared/<name>/.

    Example: fst stage prepare sort_add
    """
    workspace = workspace_of(name, settings)
    from fst.stages import prepare
    from fst.stages.outputs import problems

    folder, domain = prepare.prepare(workspace, name), problems(workspace, name)
    sizes = f"{len(domain.train)} training, {len(domain.validation)} validation, {len(domain.test)} test problems"
    show(f"{name}: {sizes} in {folder}")


@stage.command
def validate(name: Domain, /, *, settings: Settings = SETTINGS) -> None:
    """Run the data suites on a domain's prepared problems: data/validated/<name>/.

    Offending rows are named. Exit code 5: the data broke a critical expectation.

    Example: fst stage validate sort_add
    """
    workspace = workspace_of(name, settings)
    from fst.stages import validate

    folder = validate.validate(workspace, name)
    from fst.data.validation import Validation, table

    found = map(Validation.from_dict, _read(folder / "validation.json"))
    show(*map(table, found), f"page: {folder / 'index.html'}")


@stage.command
@goes_on("the same command goes on from the last completed round")
def train(name: Domain, /, *, quiet: bool = False, settings: Settings = SETTINGS) -> None:
    """Train a domain on the bundle that it builds on: models/trained/<name>/.

    Arm and seed are those of params.yaml. An interrupted training continues from the last completed round. Exit code 8:
    nothing was learned; the output says why, and the stage's outputs are written all the same.

    Example: fst stage train sort_add

    Args:
        quiet: Show no progress.
    """
    workspace = workspace_of(name, settings)
    from fst.method.run import ranks
    from fst.report.closing import require_learning
    from fst.runs.view import load_run
    from fst.stages import train

    folder = train.train(workspace, name, quiet)
    if ranks.rank():
        return  # rank 0 writes the outputs
    did, best = _read(folder / "training.json"), _read(folder / "prompts.json")["prompts"][0]
    spent = did["rollouts"]
    show(
        f"{name}: {did['arm']}, seed {did['seed']}, {did['cycles']} cycles, {did['steps']} RL steps; rollouts "
        f"{spent['train']} training, {spent['fast']} fast, {spent['eval']} evaluation.",
        f"best prompt: {best['text']!r}",
        f"written: {folder}, {workspace.places.curve(name)}",
    )
    require_learning([load_run(train.job_of(workspace, name).folder)])


@stage.command
def evaluate(name: Domain, /, *, settings: Settings = SETTINGS) -> None:
    """Measure what would be served, each domain on its test split: models/evaluated/<name>/.

    Example: fst stage evaluate sort_add
    """
    workspace = workspace_of(name, settings)
    from fst.stages import evaluate

    folder = evaluate.evaluate(workspace, name)
    found = _read(workspace.places.metrics(name))
    lines = [
        f"{domain}: reward {entry['reward']:.3f} ({error_of(entry['stderr'], len(entry['problems']))}), "
        f"KL {entry['kl']:.4f} nats per token, "
        f"{entry['tokens_per_answer']:.1f} tokens per answer"
        for domain, entry in _read(folder / "evaluation.json").items()
    ]
    show(*lines, f"most that an earlier domain lost: {found['forgetting']:.3f}", f"written: {folder}")


@stage.command
def bundle(name: Domain, /, *, settings: Settings = SETTINGS) -> None:
    """Pack a domain's adapter, prompts and evaluation for `fst release`: models/bundles/<name>/.

    Example: fst stage bundle sort_add
    """
    workspace = workspace_of(name, settings)
    from fst.stages import bundle

    _show_bundle(bundle.bundle(workspace, name))


def workspace_of(name: str, settings: Settings) -> Workspace:
    """The project in the current folder. Raises ConfigError for a domain that params.yaml does not have."""
    from fst.stages.workspace import Workspace

    params = settings.read()
    params.domain(name)
    return Workspace(params)


def _show_bundle(folder: Path) -> None:
    from fst.store.bundle import read_bundle

    show(f"{folder}: candidate {read_bundle(folder).id}; `fst release {folder.name}` asks the gate for it")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
