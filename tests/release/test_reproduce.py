"""Making a bundle again, with real git and DVC. A small project whose `fst` is a script stands for all but one test.

m1 the release's commit and parameters are used, not those of today, with data from the project's own cache: same bytes
m2 the project is left as it was, its DVC cache included, and nothing is left elsewhere; --keep leaves the folder
m3 what comes out different is exit code 7, files with both hashes
m4 what cannot be made again is a sentence, and nothing is started
m5 a stage that fails, or data that is nowhere, is exit code 3, and nothing is left behind
m6 Ctrl-C and SIGTERM end every process and remove the folder, kill -9 ends every process
m7 a candidate that was not released is made again from the commit of now
m8 the lab's own release comes out byte for byte
m9 a release that it builds on is made with that release's commit and parameters, not with its own or today's
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from fst.cli import main
from fst.config import StoreParams, params_from_dict
from fst.files import document
from fst.store.bundle import Bundle, read_bundle, write_bundle
from fst.store.releases import Releases
from support.lab_project import DOMAINS, ROOT, LabProject, alive, descendants, environment, wait_until

pytestmark = pytest.mark.slow

# Becomes the program named, which hears Ctrl-C even where this process, as one in the background does, ignores it.
LISTENING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"

# Stands for the real `fst`: packs a bundle with a prompt that tells the code, the parameters and the data.
PROGRAM = """
import hashlib, json, pathlib, subprocess, sys, yaml
command, name = sys.argv[1:]
params = yaml.safe_load(open("params.yaml"))
if params.get("sleep"):
    subprocess.run(["sleep", "600"])
if params.get("fail"):
    sys.exit("the stage cannot go on")
def write(path, values):
    content = (json.dumps(values, indent=1, sort_keys=True) + "\\n").encode()
    path.write_bytes(content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
out = pathlib.Path("models/bundles", name)
out.mkdir(parents=True)
served = {} if name == "base" else {name: {"prompts": [], "ancestry": []}}
domains, run, start = {}, None, None
if served:
    data = hashlib.sha256(pathlib.Path("problems.jsonl").read_bytes()).hexdigest()
    text = f"WORDING, {params['loop']['cycles']} cycles, order {list(params['domains'])}"
    served[name]["prompts"] = [{"id": "p", "text": text, "parents": [], "origin": "seed", "born": 0}]
    domains = {name: {"spec": params["domains"][name]["spec"], "data_sha256": data, "prompt": "p"}}
    run = {"domain": name, "arm": "fst", "seed": 0, "cycles": 1, "steps": 1, "rollouts": {}}
    below = pathlib.Path("models/bundles", params["domains"][name]["start"], "manifest.json")
    start = hashlib.sha256(below.read_bytes()).hexdigest()
files = {"prompts.json": write(out / "prompts.json", served), "evaluation.json": write(out / "evaluation.json", {})}
write(out / "manifest.json", {
    "schema": 1, "base": {"name": "lab", "sha256": "b" * 64}, "start": start, "domains": domains, "run": run,
    "params": {"loop": params["loop"]}, "versions": {"no-such-package": "1.0", "pyyaml": "0.0"}, "metrics": {},
    "candidate": None, "gate": None, "provenance": None, "files": files,
})
"""
STAGES = """
stages:
  base:
    cmd: fst bundle base
    outs: [models/bundles/base]
  bundle:
    foreach: ${domains}
    do:
      cmd: fst bundle ${key}
      params: [loop]
      deps: ["${item.source}", "models/bundles/${item.start}"]
      outs: ["models/bundles/${key}"]
"""
ABOUT = {"spec": "jsonl:problems.jsonl", "source": "problems.jsonl"}
PARAMS: dict[str, Any] = {
    "domains": {"zeta": {**ABOUT, "start": "base"}, "alpha": {**ABOUT, "start": "zeta"}},
    "loop": {"cycles": 2},
}


class Toy:
    """A project of DVC in a folder of a git repository, whose program is a script. Its first commit was released; today
    everything is different: the program, the parameters, and the data are not even there."""

    def __init__(self, root: Path) -> None:
        self.root, self.top, self.store = (
            root,
            root.parent,
            Releases.open(StoreParams(url=str(root / "models" / "releases"))),
        )
        (root / "fst").mkdir(parents=True)
        (root / "fst" / "__init__.py").touch()
        (root / "fst" / "cli.py").write_text(PROGRAM)
        (root / "dvc.yaml").write_text(STAGES)
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
        (root / ".gitignore").write_text("/models/\n__pycache__/\n/kept/\n")
        (root / "problems.jsonl").write_text('{"id": "a", "question": "1 + 1", "answer": "2"}\n')
        self.git("init", "-q", "-b", "main", "..")
        self.dvc("init", "-q", "--subdir")
        self.dvc("add", "-q", "problems.jsonl")
        self.first = self.commit()
        self.candidate = [self.pack(name) for name in ("base", "zeta", "alpha")][-1]
        self.released = self.release(self.first)
        (root / "fst" / "cli.py").write_text(PROGRAM.replace("WORDING", "ANOTHER"))
        (root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "loop": {"cycles": 7}}, sort_keys=False))
        (root / "problems.jsonl").unlink()
        self.now = self.commit()

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout.strip()

    def dvc(self, *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", "dvc", *arguments]
        subprocess.run(command, cwd=self.root, check=True, capture_output=True, env=environment())

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-qm", "more")
        return self.git("rev-parse", "HEAD")

    def pack(self, name: str) -> Bundle:
        """What the stage of now makes."""
        command = [sys.executable, "-m", "fst.cli", "bundle", name]
        subprocess.run(command, cwd=self.root, check=True, env=environment())
        return read_bundle(self.root / "models" / "bundles" / name)

    def release(self, commit: str, **params: Any) -> str:
        """A release of the candidate in the store, that says to be of a commit and of parameters; its id."""
        return self.released_from(self.candidate, commit, {**PARAMS, **params})

    def released_from(
        self, candidate: Bundle, commit: str, params: dict[str, Any], lineage: Sequence[dict[str, str]] = ()
    ) -> str:
        manifest = {
            **candidate.manifest,
            "candidate": candidate.id,
            "gate": {"verdict": "release", "production": None},
            "provenance": {"commit": commit, "dvc_lock_sha256": None, "params": params, "lineage": list(lineage)},
        }
        documents = {
            "prompts.json": candidate.prompts(),
            "evaluation.json": candidate.evaluation(),
            "gate.json": {"verdict": "release"},
        }
        with tempfile.TemporaryDirectory() as folder:
            return self.store.publish(write_bundle(Path(folder) / "bundle", manifest, documents, None).folder)

    def state(self) -> dict[str, str]:
        """Every file but what the commands may write: what was fetched, and notes of git and DVC to themselves."""
        passing = ("models/fetched", "models/releases", ".dvc/tmp", "kept", "fst/__pycache__")
        skipped = (".git/index", *(f"{self.root.name}/{path}" for path in passing))
        return {
            path: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in self.top.rglob("*")
            if file.is_file() and not (path := file.relative_to(self.top).as_posix()).startswith(skipped)
        }


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy") / "project of 'mine'")


@pytest.fixture
def scratch(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; we stand in the project, which is as it was in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.chdir(toy.root)
    return folder


def again(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `fst reproduce`, with those of DVC."""
    code = main(["reproduce", *arguments])
    out, errors = capfd.readouterr()
    assert "Traceback" not in errors
    return code, out, errors


def test_m1_m2_the_same_bytes_and_nothing_else(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = toy.state()
    assert any("/.dvc/cache/" in path for path in before)
    assert any(path.startswith(".git/refs/") for path in before)
    code, out, errors = again(capfd, toy.released[:12])
    assert code == 0, out + errors
    assert out.splitlines()[-1] == f"the same bytes: candidate {toy.candidate.id} of bundle {toy.released}"
    assert f"commit {toy.first} in {scratch}" in out
    installed = importlib.metadata.version("pyyaml")
    assert f"it may come out different: pyyaml {installed} instead of 0.0" in out
    for stage in ("base", "bundle@zeta", "bundle@alpha"):
        assert f"Running stage '{stage}'" in out, "what DVC says is shown"
    assert toy.state() == before
    assert list(scratch.iterdir()) == []


def test_m2_keep_leaves_the_folder(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert again(capfd, toy.released, "--keep", "kept/here")[0] == 0
    clone = toy.root / "kept" / "here" / "clone" / toy.root.name
    assert read_bundle(clone / "models" / "bundles" / "alpha").id == toy.candidate.id
    values = yaml.safe_load((clone / "params.yaml").read_text())
    assert params_from_dict(values).loop.cycles == 2
    assert list(values["domains"]) == ["zeta", "alpha"]
    code, _, errors = again(capfd, toy.released, "--keep", "kept/here")
    assert (code, errors) == (
        2,
        "fst: --keep kept/here: File exists; name a new folder in a place that you may write\n",
    )
    assert list(scratch.iterdir()) == []


def test_m3_another_result_is_told_file_by_file(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A release that says to be of today's commit, whose program words it differently."""
    code, _, errors = again(capfd, toy.release(toy.now))
    assert code == 7
    text = "ANOTHER, 2 cycles, order ['zeta', 'alpha']"
    prompt = {"id": "p", "text": text, "parents": [], "origin": "seed", "born": 0}
    served = {"alpha": {"prompts": [prompt], "ancestry": []}}
    made = hashlib.sha256(document(served).encode()).hexdigest()
    said = errors[errors.index("fst: bundle") :]
    then = toy.candidate.manifest["files"]["prompts.json"]["sha256"]
    assert f"  prompts.json\n    then  {then}\n    now   {made}\n" in said
    assert f"  manifest.json\n    then  {toy.candidate.id}\n" in said
    assert "evaluation.json" not in said
    assert f"  builds on: {toy.candidate.manifest['start']!r} then, " in said
    assert list(scratch.iterdir()) == []


def test_m4_what_cannot_be_made_again(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dirty, outside, elsewhere = (toy.release(c) for c in (f"{toy.first}+changes", "unknown", "abcd" * 10))
    code, out, errors = again(capfd, dirty)
    assert (code, out) == (2, "")
    assert f"was made from commit {toy.first} with changes that are in no commit; --allow-changes" in errors
    code, out, errors = again(capfd, outside, "--allow-changes")
    assert (code, out) == (2, "")
    assert "it was made outside of git (commit 'unknown')" in errors
    code, out, errors = again(capfd, elsewhere)
    assert code == 2
    assert "Running stage" not in out
    assert f"commit {'abcd' * 10} is not in {toy.top}; `git fetch` the branch or tag that has it" in errors
    assert list(scratch.iterdir()) == []


def test_m4_changes_can_be_left_out(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = again(capfd, toy.release(f"{toy.first}+changes"), "--allow-changes")
    assert code == 0
    assert out.startswith("without the changes that it was made with: they are in no commit")
    assert f"the same bytes: candidate {toy.candidate.id}" in out


def test_m5_a_stage_that_fails(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, errors = again(capfd, toy.release(toy.first, fail=True))
    assert code == 3
    assert "the stage cannot go on" in errors
    assert "`dvc repro --force --no-run-cache --no-commit bundle@alpha` ended with " in errors
    assert list(scratch.iterdir()) == []


def test_m5_data_that_is_nowhere(toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache = toy.root / ".dvc" / "cache"
    cache.rename(toy.root / "kept-cache")
    try:
        code, _, errors = again(capfd, toy.released)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        (toy.root / "kept-cache").rename(cache)
    assert code == 3
    assert "problems.jsonl" in errors
    assert "a dataset that is missing comes with `dvc pull`" in errors


def runs(process: int, program: str) -> bool:
    try:
        return Path(f"/proc/{process}/comm").read_text() == f"{program}\n"
    except OSError:  # it has ended in this moment
        return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_m6_a_signal_ends_everything(number: signal.Signals, code: int, toy: Toy, scratch: Path) -> None:
    arguments = ["-P", "-m", "fst.cli", "reproduce", toy.release(toy.first, sleep=True)]
    command = [sys.executable, "-c", LISTENING, sys.executable, *arguments]
    env = environment(PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: any(runs(p, "sleep") for p in descendants(process.pid)), 300, "no stage was started")
            family = descendants(process.pid)
        finally:
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
    assert len(family) >= 3, "DVC, the stage, and what the stage started"
    assert process.returncode == code, errors
    wait_until(lambda: not any(map(alive, family)), 10, "a process of the ended command lives on")
    if number != signal.SIGKILL:
        assert errors.splitlines()[-1] == "fst: stopped; the same command starts it anew; nothing is half-written"
        assert list(scratch.iterdir()) == []


def test_m7_a_candidate_is_made_again_from_now(
    toy: Toy, scratch: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A candidate of today's program, with today's parameters, in a folder anywhere."""
    assert again(capfd, toy.released, "--keep", str(tmp_path / "before"))[0] == 0
    clone = tmp_path / "before" / "clone" / toy.root.name
    (clone / "fst" / "cli.py").write_text((toy.root / "fst" / "cli.py").read_text())
    for name in ("base", "zeta", "alpha"):
        shutil.rmtree(clone / "models" / "bundles" / name)
        command = [sys.executable, "-m", "fst.cli", "bundle", name]
        subprocess.run(command, cwd=clone, check=True, env=environment())
    candidate = clone / "models" / "bundles" / "alpha"
    code, out, errors = again(capfd, str(candidate))
    assert code == 0, errors
    assert f"commit {toy.now} in " in out
    assert out.splitlines()[-1] == f"the same bytes: candidate {read_bundle(candidate).id}"
    (toy.root / "dvc.yaml").write_text(STAGES + "# a change\n")
    try:
        code, _, errors = again(capfd, str(candidate))
    finally:
        toy.git("checkout", "dvc.yaml")
    assert code == 2
    assert "with changes that are in no commit" in errors


def test_m9_what_it_builds_on_is_made_with_its_own_commit_and_parameters(
    toy: Toy, scratch: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Zeta is released at the first commit with 2 cycles; alpha builds on it at today's commit, with 5."""
    built = toy.root / "models" / "bundles"
    zeta = read_bundle(built / "zeta")
    below = toy.released_from(zeta, toy.first, PARAMS)
    params = {**PARAMS, "loop": {"cycles": 5}}
    today = (toy.root / "params.yaml").read_text()
    (toy.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    toy.dvc("checkout", "-q", "problems.jsonl.dvc")
    kept = built / "alpha"
    kept.rename(toy.root / "kept-alpha")
    try:
        alpha = toy.pack("alpha")
        assert alpha.manifest["start"] == zeta.id
        text = alpha.prompts()["alpha"]["prompts"][0]["text"]
        assert text == "ANOTHER, 5 cycles, order ['zeta', 'alpha']"
        lineage = [{"stage": "zeta", "candidate": zeta.id}]
        released = toy.released_from(alpha, toy.now, params, lineage)
    finally:
        shutil.rmtree(kept)
        (toy.root / "kept-alpha").rename(kept)
        (toy.root / "params.yaml").write_text(today)
        (toy.root / "problems.jsonl").unlink()
    code, out, errors = again(capfd, released)
    assert code == 0, out + errors
    assert out.splitlines()[-1] == f"the same bytes: candidate {alpha.id} of bundle {released}"
    (first, second) = (line for line in out.splitlines() if line.startswith("commit "))
    assert first.startswith(f"commit {toy.first} in ")
    assert first.endswith(": zeta")
    assert second.startswith(f"commit {toy.now} in ")
    assert second.endswith(": alpha")
    assert out.count("Running stage 'bundle@zeta'") == 1, "not once more on the way to alpha"
    assert toy.store.manifest(below)["provenance"]["params"]["loop"] == {"cycles": 2}
    assert list(scratch.iterdir()) == []


def test_m8_the_lab_comes_out_byte_for_byte(tmp_path: Path, reproduced: LabProject) -> None:
    project = reproduced.copy(tmp_path / "project", {"first": DOMAINS["first"]})
    project.run("fst", "release", "first")
    store = project.root / "models" / "releases"
    released = json.loads((store / "channels" / "prod.json").read_text())["bundle"]
    (project.root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    done = project.run("fst", "reproduce", "prod", TMPDIR=str(tmp_path))
    candidate = json.loads((store / "bundles" / released / "manifest.json").read_text())
    said = f"the same bytes: candidate {candidate['candidate']} of bundle {released}"
    assert done.stdout.splitlines()[-1] == said
    assert "lab_base" in done.stderr, "frozen: it is taken as it is in git"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project"]
