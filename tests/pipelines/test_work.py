"""The child process of a flow. K1 a round that failed is begun anew by the next attempt, in the same child; K2 errors
come over as they are, with their exit code; K3 a child that is killed or late is a WorkerDied, and the next call has a
new one; K4 nothing of a flow's own process imports torch; K5 figures of an evaluation belong to the round that it
followed; K6 the reward that slow rounds are decided by is that of the problems which the gate counts."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fst.errors import ConfigError, RecordError
from fst.method.run.runner import Job
from fst.runs.records import RunFolder
from fst.stages.base import base
from fst.stages.prepare import prepare
from fst.stages.train import job_of
from pipelines import work
from pipelines.project import Project
from pipelines.worker import Worker, WorkerDied
from support.lab_project import DOMAINS, ROOT, TINY


@pytest.fixture
def project(tmp_path: Path) -> Project:
    params = {**TINY, "domains": {"first": DOMAINS["first"]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return Project(str(tmp_path))


def prepared(project: Project) -> Job:
    base(project.workspace)
    prepare(project.workspace, "first")
    return job_of(project.workspace, "first")


def test_k6_a_tenant_that_lies_does_not_lower_the_reward(project: Project) -> None:
    told = {f"tenant-{t}": {"problems": 90, "held_out": [f"{t}{i}" for i in range(30)]} for t in "abc"}
    rewards = {f"{t}{i}": float(t != "c" and i >= 3) for t in "abc" for i in range(30)}
    folder = project.places.evaluated("first")
    folder.mkdir(parents=True)
    entries = {"first": {"problems": rewards, "reward": 0.6, "tenants": told}}
    (folder / "evaluation.json").write_text(json.dumps(entries))
    assert work.reward(project, "first") == 0.9


@pytest.mark.slow
def test_k1_a_round_that_failed_is_begun_anew(project: Project) -> None:
    job = prepared(project)
    job.folder.mkdir(parents=True)
    taken = RunFolder(job.folder)
    taken.lock()
    with pytest.raises(RecordError, match="in use by another process"):
        work.next_round(project, "first")
    taken.close()
    assert work.next_round(project, "first")["round"] == 0
    assert work.next_round(project, "first")["round"] == 1
    work._training.clear()
    resumed = work.next_round(project, "first")
    assert (resumed["round"], resumed["channel"], resumed["more"]) == (2, "fast", True)
    work._training.clear()


@pytest.mark.slow
def test_k5_a_round_without_an_evaluation_has_no_figures_of_one(project: Project) -> None:
    file = project.places.params
    params = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**params, "evaluate": {**params["evaluate"], "every": 3}}, sort_keys=False))
    prepared(project)
    rounds = [work.next_round(project, "first") for _ in range(4)]
    work._training.clear()
    assert [done["accuracy"] is None for done in rounds] == [True, True, False, False]
    assert [done["kl"] is None for done in rounds] == [True, True, False, False]
    assert [done["more"] for done in rounds] == [True, True, True, False]


@pytest.mark.slow
def test_k2_k3_errors_come_over_and_a_dead_child_is_replaced(project: Project) -> None:
    worker = Worker()
    try:
        with pytest.raises(ConfigError, match=r"domains\.nowhere: params\.yaml has no such domain") as caught:
            worker.call(work.prepare, project, "nowhere", timeout_seconds=60)
        assert caught.value.exit_code == 2
        assert worker._pool is not None
        (child,) = worker._pool._processes
        os.kill(child, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="was killed from outside"):
            worker.call(work.base, project, "", timeout_seconds=60)
        assert worker.call(work.base, project, "", timeout_seconds=60).is_dir()
        with pytest.raises(WorkerDied, match="took longer than 0 s and was ended"):
            worker.call(work.prepare, project, "first", timeout_seconds=0)
    finally:
        worker.close(at_once=True)


def test_k4_a_flow_is_light() -> None:
    code = (
        "import pipelines.flows, pipelines.deployments, sys; sys.exit('torch' in sys.modules or 'trl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_project_reads_its_own_parameters(project: Project) -> None:
    assert project.params.domain("first").spec == DOMAINS["first"]["spec"]
    assert dataclasses.replace(project, root=".").places.params == Path("params.yaml")
