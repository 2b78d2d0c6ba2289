"""dvc.yaml, run for real with `dvc repro` on a small project. V1 a second repro does nothing; V2 a domain whose spec or
data changes reruns itself and what was trained on top of it, and nothing else; V3 metrics and plots are declared; V5
push, an empty cache and pull over a real S3 endpoint bring everything back; V6 SIGTERM to `dvc repro` leaves no process
behind, and the next repro goes on to the same hashes; V7 no credential is anywhere in the project; V8 `dvc exp run -S`
trains another seed. That a cold repro gives the same hashes as the flows is F1 of tests/pipelines/test_flows.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from support.lab_project import DOMAINS, LabProject, alive, descendants, rounds_done, wait_until

pytestmark = pytest.mark.slow

SECRET = "planted-secret-5f2c9d"
APART = {name: {**facts, "start": "base"} for name, facts in DOMAINS.items()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, reproduced: LabProject) -> LabProject:
    """Two domains, one on top of the other, reproduced."""
    return reproduced.copy(tmp_path_factory.mktemp("graph") / "project")


def test_v1_a_second_repro_does_nothing(project: LabProject) -> None:
    before = project.locked_outputs()
    assert "Data and pipelines are up to date." in project.run("dvc", "repro").stdout
    assert project.status() == {}
    assert project.locked_outputs() == before
    assert set(before) >= {f"models/bundles/{name}" for name in ("base", "first", "second")}


def test_v3_metrics_plots_and_experiments(project: LabProject) -> None:
    metrics = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    rewards = {name: facts["data"]["reward"] for name, facts in metrics[""]["data"].items()}
    assert set(rewards) == {"reports/metrics/first.json", "reports/metrics/second.json"}
    assert all(0 <= reward <= 1 for reward in rewards.values())
    page = project.run("dvc", "plots", "show", "--json").stdout
    assert "reports/curves/first.csv" in page
    assert "accuracy" in page


def test_v2_a_change_reruns_what_depends_on_it(project: LabProject) -> None:
    saved = (project.root / "params.yaml").read_text()
    try:
        project.params["domains"] = {**DOMAINS, "second": {**DOMAINS["second"], "spec": "lab/letters:reverse"}}
        project.write_params()
        assert {stage.partition("@")[2] for stage in project.status()} == {"second"}
        project.params["domains"] = {**DOMAINS, "first": {**DOMAINS["first"], "spec": "lab/reverse"}}
        project.write_params()
        assert set(project.status()) == {"prepare@first", "train@first"}  # the rest follows where its outputs differ
        assert "@first" in project.run("dvc", "dag", "train@second", "--dot").stdout
    finally:
        project.params["domains"] = DOMAINS
        (project.root / "params.yaml").write_text(saved)


def test_v2_domains_that_stand_apart_rerun_alone(project: LabProject) -> None:
    saved = (project.root / "params.yaml").read_text()
    try:
        project.params["domains"] = APART
        project.write_params()
        graph = project.run("dvc", "dag", "bundle@second", "--dot").stdout
        assert "train@second" in graph
        assert "@first" not in graph
    finally:
        project.params["domains"] = DOMAINS
        (project.root / "params.yaml").write_text(saved)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real S3 endpoint on this machine, with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    url = f"http://{host}:{port}"
    assert httpx.put(f"{url}/datasets").status_code == 200
    yield url
    server.stop()


def test_v5_push_empty_the_cache_and_pull(project: LabProject, s3: str) -> None:
    """The commands that docs/operations.md gives."""
    project.run("dvc", "remote", "add", "-f", "-d", "storage", "s3://datasets/dvc")
    project.run("dvc", "remote", "modify", "storage", "endpointurl", s3)
    before = project.locked_outputs()
    adapter = project.root / "models" / "trained" / "second" / "adapter" / "adapter_model.safetensors"
    weights = adapter.read_bytes()
    project.run("dvc", "push", "-q")
    assert "in sync" in project.run("dvc", "status", "-c").stdout
    for folder in (".dvc/cache", "models/trained", "models/bundles", "models/evaluated", "data/prepared"):
        shutil.rmtree(project.root / folder)
    project.run("dvc", "pull", "-q", "--allow-missing")
    assert adapter.read_bytes() == weights
    assert project.status() == {}
    assert project.locked_outputs() == before


def test_v7_the_secret_is_nowhere(project: LabProject) -> None:
    """After the test above: credentials came from the environment and stay there."""
    found = [file for file in project.root.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert found == []


def test_v6_sigterm_leaves_no_process_and_loses_nothing(tmp_path: Path, reproduced: LabProject) -> None:
    other = reproduced.copy(tmp_path / "project", {"first": DOMAINS["first"]}, trained=False)
    process = other.start("dvc", "repro")
    wait_until(lambda: rounds_done(other) >= 1 or process.poll() is not None, 200, "no round was done")
    family = descendants(process.pid)
    assert family, "training runs in a process of its own"
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    wait_until(lambda: not any(map(alive, family)), 20, "a process of the ended repro lives on")
    done = rounds_done(other)
    other.run("dvc", "repro", "-q", "train@first")
    resumed = sum('"kind": "resume"' in line for run in other.ended_runs() for line in events(run))
    assert done >= 1
    assert resumed == 1
    assert other.locked_outputs()["models/trained/first"] == reproduced.locked_outputs()["models/trained/first"]


def events(run: Path) -> list[str]:
    return (run / "events.jsonl").read_text().splitlines()


def test_v8_another_seed_is_an_experiment(project: LabProject) -> None:
    """It trains a domain again and leaves the working tree's results as they were when it is taken back."""
    project.run("git", "add", "dvc.lock")
    project.run("git", "commit", "-qm", "seed 0")
    before = project.locked_outputs()
    project.run("dvc", "exp", "run", "-q", "-n", "third", "-S", "train.seed=3", "train@first")
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    assert "third" in json.dumps(shown)
    after = project.locked_outputs()
    changed = {path for path in before if before[path] != after[path]}
    assert "models/trained/first" in changed
    assert not {path for path in changed if "second" in path or "prepared" in path}
    project.run("git", "checkout", "-q", "--", "params.yaml", "dvc.lock")
    project.run("dvc", "checkout", "-q", "--force")
    assert project.status() == {}


def test_v2_a_changed_domain_reruns_alone(project: LabProject) -> None:
    project.params["domains"] = {**DOMAINS, "second": {**DOMAINS["second"], "spec": "lab/letters:reverse"}}
    project.write_params()
    ran = re.findall(r"^Running stage '(.*)':$", project.run("dvc", "repro").stdout, re.MULTILINE)
    assert ran == [f"{stage}@second" for stage in ("prepare", "validate", "train", "evaluate", "bundle")]
