"""A small project in a folder of its own: the code, dvc.yaml, and parameters that train in seconds. The fixture
`reproduced` is one that `dvc repro` went through; copies of it save a test the stages that it is not about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CODE = ("fst", "data", "models", "pipelines", "dvc.yaml", ".dvcignore", ".gitignore")
TINY: dict[str, Any] = {
    "prepare": {"seed": 0, "train": 64, "validation": 16, "test": 16},
    "model": {"base": "lab", "max_new_tokens": 12, "dtype": "float32", "threads": 1},
    "slow": {"problems_per_step": 2, "group_size": 4, "learning_rate": 0.001, "warmup_steps": 1},
    "fast": {"prompts": 2, "anchors": 8, "minibatch": 4, "budget": 48, "patience": 2, "max_prompt_tokens": 64},
    "reflector": {"proposals": 16},
    "loop": {"cycles": 2, "steps_per_cycle": 2},
    "evaluate": {"samples": 2, "kl_problems": 8},
    "gate": {"resamples": 200, "tie": "replace", "max_forgetting": 1.0},
}
DOMAINS = {
    "first": {"spec": "lab/sort_desc+drop_last", "source": "fst/data/lab/rules.py", "start": "base"},
    "second": {"spec": "lab/letters:drop_first+rotate_left", "source": "fst/data/lab/rules.py", "start": "first"},
}


def environment(**more: str) -> dict[str, str]:
    """This process's, with the environment's programs on the path; the project's own code is what runs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    nobody = {f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **nobody, "PATH": path, "OMP_NUM_THREADS": "1", "SHELL": "/bin/bash", **more}


FROM_TRAINING = ("train", "evaluate", "bundle")  # the stages from the first training on, and what they make
MADE_BY_TRAINING = ("runs", "reports", "models/trained", "models/evaluated", ".dvc/cache/runs")


class LabProject:
    """A git and DVC repository with the project's code, made unless it is there. `fst` on its path runs that code."""

    def __init__(self, root: Path, domains: dict[str, Any] | None = None, **params: Any) -> None:
        self.root = root
        self.params: dict[str, Any]
        if root.exists():
            self.params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
            return
        root.mkdir(parents=True)
        for name in CODE:
            source = ROOT / name
            if source.is_dir():
                ignored = IGNORED if name in ("data", "models") else ("__pycache__",)  # no code is left out
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns(*ignored))
            else:
                shutil.copyfile(source, root / name)
        lock = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))
        lock["stages"] = {"lab_base": lock["stages"]["lab_base"]}  # no stage that ran in the checkout
        (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
        (root / "bin").mkdir()
        launcher = root / "bin" / "fst"
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m fst.cli "$@"\n')
        launcher.chmod(0o755)
        shipped = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        small = {key: {**section, **TINY.get(key, {}), **params.get(key, {})} for key, section in shipped.items()}
        self.params = {**small, "domains": domains or DOMAINS}
        self.write_params()
        self.run("git", "init", "-q", "-b", "main")
        self.run("dvc", "init", "-q")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "start")

    def copy(
        self, root: Path, domains: dict[str, Any] | None = None, trained: bool = True, **params: Any
    ) -> LabProject:
        """The project in another folder, with other domains and parameters. Of the stages, those of its domains are in
        dvc.lock, and with `trained=False` none from the first training on."""
        shutil.copytree(self.root, root)
        made = (*MADE_BY_TRAINING, *(f"models/bundles/{name}" for name in self.params["domains"]))
        for place in (".dvc/tmp", *(() if trained else made)):
            shutil.rmtree(root / place, ignore_errors=True)
        project = LabProject(root)
        sections = {key: {**section, **params.get(key, {})} for key, section in self.params.items()}
        project.params = {**sections, "domains": domains or self.params["domains"]}
        project.write_params()
        lock = yaml.safe_load((root / "dvc.lock").read_text())
        for key in list(lock["stages"]):
            stage, _, name = key.partition("@")
            if name not in ("", *project.params["domains"]) or (stage in FROM_TRAINING and not trained):
                del lock["stages"][key]
        (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
        return project

    def write_params(self) -> None:
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.params, sort_keys=False))

    def environment(self, **more: str) -> dict[str, str]:
        env = environment(PYTHONPATH=str(self.root), DVC_NO_ANALYTICS="1", DO_NOT_TRACK="1", **more)
        return {**env, "PATH": f"{self.root / 'bin'}{os.pathsep}{env['PATH']}"}

    def run(self, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project. With `check`, one that fails fails the test with what it said."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**more), capture_output=True, text=True, timeout=500
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def locked_outputs(self) -> dict[str, str]:
        """Hash of every output in dvc.lock, by path."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}

    def status(self) -> dict[str, Any]:
        """Stages that `dvc repro` would run, with why."""
        found = json.loads(self.run("dvc", "status", "--json").stdout)
        return {stage: why for stage, why in found.items() if stage != "lab_base"}

    def ended_runs(self) -> list[Path]:
        return sorted(self.root.glob("runs/*"))


IGNORED = ("__pycache__", "prepared", "validated", "trained", "evaluated", "bundles", "releases", "fetched", "traffic")


def children(process: int) -> list[int]:
    """Processes whose parent is this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def descendants(process: int) -> list[int]:
    found = children(process)
    return found + [more for child in found for more in descendants(child)]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def rounds_done(project: LabProject) -> int:
    return sum(
        '"kind": "round"' in line
        for run in project.ended_runs()
        if (run / "events.jsonl").exists()
        for line in (run / "events.jsonl").read_text().splitlines()
    )
