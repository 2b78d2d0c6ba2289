"""The dependencies that dvc.yaml gives each stage. D1 every file that a stage's module leads to is among them; D2 a
stage depends on no code that its module does not lead to; D3 the closure follows imports inside functions, relative
ones, rows of tables and templates; D4 dvc.lock has the dependencies of the frozen stage; D5 DVC calls a stage stale
when one line of any of these files changes, and no other stage; D6 training's runs are named by the code of every
sub-package."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fst.stages import train
from support.imports import ROOT, closure
from support.lab_project import DOMAINS, LabProject

MODULES = {
    **{stage: f"fst.stages.{stage}" for stage in ("base", "prepare", "validate", "train", "evaluate", "bundle")},
    "lab_base": "fst.models.lab.pretrain",
}


def stages() -> dict[str, dict[str, list[str]]]:
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


def code_of(stage: str) -> list[str]:
    return [path for path in stages()[stage]["deps"] if path.startswith("fst/")]


def covers(dependency: str, file: str) -> bool:
    return file == dependency or file.startswith(f"{dependency}/")


def test_every_stage_is_looked_at() -> None:
    assert set(stages()) == set(MODULES)


@pytest.mark.parametrize("stage", MODULES)
def test_d1_every_imported_file_is_a_dependency(stage: str) -> None:
    code = code_of(stage)
    missing = [file for file in sorted(closure(MODULES[stage])) if not any(covers(path, file) for path in code)]
    assert missing == [], f"add these to the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("stage", MODULES)
def test_d2_every_dependency_is_imported(stage: str) -> None:
    used = closure(MODULES[stage])
    assert [path for path in code_of(stage) if not any(covers(path, file) for file in used)] == []
    assert [path for path in code_of(stage) if not (ROOT / path).exists()] == []
    rooms = {path.split("/")[1] for path in code_of(stage)}
    assert rooms & {"traffic", "release", "report", "serving", "monitoring", "claims", "bench", "cli"} == set()


def test_d3_the_closure_follows_every_way_to_import(tmp_path: Path) -> None:
    sources = {
        "__init__.py": "",
        "a.py": "def late():\n    from fst.b import thing\n",
        "b/__init__.py": "from . import c\nTABLE = {'x': 'fst.d:Thing'}\n",
        "b/c.py": "PAGE = 'page.html.jinja'\nAPART = 'apart.html'\n",
        "b/page.html.jinja": "",
        "d.py": "import importlib\nimportlib.import_module('fst.e')\n",
        "e.py": "import fst.a\n",
        "unused.py": "import fst.a\n",
        "apart.html": "",
    }
    for name, source in sources.items():
        (tmp_path / "fst" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fst" / name).write_text(source)
    assert closure("fst.a", tmp_path) == {f"fst/{name}" for name in sources} - {"fst/unused.py", "fst/apart.html"}


def test_d3_the_closure_of_training_holds_what_is_imported_by_name() -> None:
    assert closure("fst.stages.train") >= {
        "fst/models/engines/vllm_server.py",
        "fst/data/validation/page.html.jinja",
        "fst/data/families/reasoning_gym.py",
        "fst/method/rollouts.py",
    }


def test_d4_the_lock_of_the_frozen_stage_names_its_dependencies() -> None:
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    assert [dep["path"] for dep in lock["lab_base"]["deps"]] == sorted(stages()["lab_base"]["deps"])


@pytest.mark.slow
def test_d5_a_changed_line_makes_the_stages_stale_that_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    project = LabProject(tmp_path / "project", {"first": DOMAINS["first"]})
    monkeypatch.chdir(project.root)
    names = {stage: stage if stage == "base" else f"{stage}@first" for stage in MODULES if stage != "lab_base"}
    with Repo(str(project.root)) as repo:
        for stage in repo.index.stages:
            for out in stage.outs:
                if not out.exists:
                    Path(out.fs_path).parent.mkdir(parents=True, exist_ok=True)
                    Path(out.fs_path).write_text("made by a stage")
    with Repo(str(project.root)) as repo:
        repo.commit(force=True)
    depends = {name: code_of(stage) for stage, name in names.items()}
    imported = {name: closure(MODULES[stage]) for stage, name in names.items()}
    for file in sorted(set().union(*imported.values())):
        source = (project.root / file).read_bytes()
        (project.root / file).write_bytes(source + b"# one line more\n")
        with Repo(str(project.root)) as repo:
            stale = set(repo.status())
        (project.root / file).write_bytes(source)
        assert stale >= {name for name, files in imported.items() if file in files}, file
        assert stale == {name for name, code in depends.items() if any(covers(path, file) for path in code)}, file
    with Repo(str(project.root)) as repo:
        assert repo.status() == {}


def test_d6_a_run_is_named_by_the_code_of_every_sub_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ROOT / "fst" == train.SOURCES
    deep = tmp_path / "room" / "inner" / "module.py"
    deep.parent.mkdir(parents=True)
    (tmp_path / "top.py").write_text("x = 1\n")
    monkeypatch.setattr(train, "SOURCES", tmp_path)
    found = [train.sources_sha256()]
    for source in ("", "y = 1\n"):
        deep.write_text(source)
        found.append(train.sources_sha256())
    deep.rename(deep.with_name("renamed.py"))
    found.append(train.sources_sha256())
    assert len(set(found)) == 4
