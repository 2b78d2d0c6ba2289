"""The build context of the image. I1 what a project makes or is told stays out of it, wherever it lies; I2 everything
that git has and that a job runs is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker.utils.build import exclude_paths  # the client's own reading of .dockerignore

from support.imports import ROOT

OUTSIDE = (
    *(".git/config", ".git/objects/aa/bb", ".dvc/config.local", ".dvc/cache/files/md5/aa/bb", ".env", "params/.env"),
    *("keys.json", "params/keys.json", "release.pem", "params/release.pem", ".venv/bin/python", "notes.txt"),
    *("traffic/traffic-00000001.jsonl", "data/traffic/letters-1.jsonl", "data/prepared/letters/test.jsonl"),
    *("data/raw/customers.jsonl", "runs/letters-1/rollouts.jsonl", "reports/monitoring/alerts.jsonl"),
    *("models/trained/a/adapter/adapter_model.safetensors", "models/bundles/a/manifest.json", "models/smollm2/x"),
    *("models/releases/channels/prod.json", "models/fetched/a/manifest.json", "fst/__pycache__/a.pyc"),
)
INSIDE = (
    *("fst/cli/app.py", "fst/monitoring/page/app.js", "pipelines/flows.py", "pyproject.toml", "constraints.txt"),
    *("dvc.yaml", "dvc.lock", ".dvc/config", "params.yaml", "params/qwen3-8b.yaml", "README.md", "LICENSE"),
    *("models/lab_base/model.safetensors", "data/scenarios/new_domain.yaml"),
)


@pytest.fixture
def context(tmp_path: Path) -> set[str]:
    """What of a project with all these files is sent to the builder."""
    for path in (*OUTSIDE, *INSIDE):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    lines = [line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()]
    return set(exclude_paths(str(tmp_path), [line for line in lines if line and not line.startswith("#")]))


def test_i1_nothing_that_a_project_makes_is_in_it(context: set[str]) -> None:
    assert sorted(context & set(OUTSIDE)) == []


def test_i2_what_a_job_runs_is_in_it(context: set[str]) -> None:
    assert sorted(set(INSIDE) - context) == []
    assert [path for path in INSIDE if not (ROOT / path).exists()] == [], "the list above is of files that there are"
