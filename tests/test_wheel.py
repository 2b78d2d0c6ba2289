"""The wheel. W1 it holds `fst` and its metadata, the lab's base model included, and nothing else; W2 installed into a
new environment it works from an empty folder: `fst doctor` finds the lab's model, and a short training ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from support.imports import ROOT

pytestmark = pytest.mark.slow

SMALL = (
    *("loop.cycles=1", "loop.steps_per_cycle=1", "prepare.validation=8", "prepare.test=8", "prepare.train=16"),
    *("slow.problems_per_step=2", "slow.group_size=4", "fast.anchors=4", "fast.minibatch=2", "fast.budget=16"),
    *("fast.prompts=2", "reflector.proposals=4", "evaluate.samples=1", "evaluate.kl_problems=4"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder))
    subprocess.run((sys.executable, "-m", "pip", *build, str(ROOT)), check=True)
    (file,) = folder.iterdir()
    return file


def test_w1_the_wheel_holds_fst_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"fst", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    code = {file.relative_to(ROOT).as_posix() for file in (ROOT / "fst").rglob("*.py")}
    assert code <= set(names)
    shipped = {f"fst/models/lab/base/{file.name}" for file in (ROOT / "models" / "lab_base").iterdir()}
    assert shipped <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_w2_it_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    python, here = home / "bin" / "python", tmp_path / "empty"
    install = ("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    subprocess.run((sys.executable, "-m", "pip", "--python", str(python), *install), check=True)
    (site,) = home.glob("lib/*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # those of this environment, after its own
    here.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode in codes, done.stdout + done.stderr
        return done.stdout

    fst = str(home / "bin" / "fst")
    assert run(str(python), "-c", "import fst; print(fst.__file__)").strip() == str(site / "fst" / "__init__.py")
    found = run(fst, "doctor")
    assert re.search(r"lab base model\W+ok\W", found)
    assert list(here.iterdir()) == []
    small = [word for key in SMALL for word in ("--set", key)]
    said = run(fst, "train", "--quiet", "--run", "first", *small, codes=(0, 8))  # 8: so few rollouts taught it nothing
    assert "fst on lab/sort_desc+add_one: test accuracy" in " ".join(said.split())
    assert [path.name for path in here.iterdir()] == ["runs"]
    assert '"kind": "end"' in (here / "runs" / "first" / "events.jsonl").read_text()
