"""Writes Evidently's report on a window: a self-contained page, and a snapshot in a workspace for `evidently ui`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
from evidently.ui.workspace import Workspace

from fst.monitoring.signals import Reference
from fst.traffic.log import Request


def write_report(reference: Reference, window: Sequence[Request], folder: Path, name: str, project: str) -> Path:
    """Write folder/name.html and add the snapshot to the project of the workspace folder/workspace; returns the page.
    Questions are compared by Evidently's domain classifier, novelty and lengths by their Wasserstein distance."""
    now = pd.DataFrame(
        {
            "question": [request.question for request in window],
            "domain": [request.domain or "unknown" for request in window],
            "novelty": [request.novelty for request in window],
            "tokens": [float(request.tokens[1]) for request in window],
        }
    )
    texts = [(domain, text) for domain, found in reference.questions.items() for text in found]
    novelty = reference.columns["", "novelty"]
    lengths = {domain: reference.columns[domain, "length"] for domain in reference.domains}
    before = pd.DataFrame(
        {
            "question": [text for _, text in texts],
            "domain": [domain for domain, _ in texts],
            "novelty": novelty[: len(texts)],
            "tokens": [float(lengths[domain][i % len(lengths[domain])]) for i, (domain, _) in enumerate(texts)],
        }
    )
    definition = DataDefinition(
        text_columns=["question"], categorical_columns=["domain"], numerical_columns=["novelty", "tokens"]
    )
    report = Report(
        [
            ValueDrift(column="question"),
            ValueDrift(column="domain"),
            ValueDrift(column="novelty", method="wasserstein"),
            ValueDrift(column="tokens", method="wasserstein"),
        ]
    )
    snapshot = report.run(Dataset.from_pandas(now, definition), Dataset.from_pandas(before, definition))
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    snapshot.save_html(str(page))
    workspace = Workspace.create(str(folder / "workspace"))
    found = [one for one in workspace.list_projects() if one.name == project]
    workspace.add_run((found[0] if found else workspace.create_project(project)).id, snapshot)
    return page
