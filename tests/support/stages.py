"""All stages of a domain, in their order, as `dvc repro` runs them."""

from __future__ import annotations

from fst.stages.base import base
from fst.stages.bundle import bundle
from fst.stages.evaluate import evaluate
from fst.stages.prepare import prepare
from fst.stages.train import train
from fst.stages.validate import validate
from fst.stages.workspace import Workspace


def run_stages(workspace: Workspace, name: str) -> None:
    base(workspace)
    prepare(workspace, name)
    validate(workspace, name)
    train(workspace, name, quiet=True)
    evaluate(workspace, name)
    bundle(workspace, name)
