"""notebooks/lab.ipynb. N1 the outputs stored in it show what its text says; N2 so do its cells, run from top to bottom;
N3 no process of theirs is left behind; N4 the files that the text links to exist."""

from __future__ import annotations

import json
import re
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

import psutil
import pytest

from fst.types import COMPARED
from support.imports import ROOT

CELLS = json.loads((ROOT / "notebooks" / "lab.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}


def check(shown: dict[str, str]) -> list[tuple[str, str]]:
    """Hold the outputs of the code cells, by the cells' ids, against the text between them. Returns the answers of the
    gateway, each with the expected one."""
    curve = [float(found) for found in re.findall(r"rollouts: accuracy (\S+)", shown["train"])]
    assert len(curve) == 3, "the untrained model, after the fast round, after the slow one"
    assert curve[1] > curve[0] + 0.2, "the fast round found a better prompt"
    first, *_ = prompts = shown["prompts"].splitlines()
    assert re.match(r"rank 1  score \S+  reflection  ", first), "the best prompt was written by reflection"
    assert any(re.match(r"rank -  ", line) for line in prompts)
    assert shown["prompts"].split("The feedback on three")[1].count("\nexpected: ") == 3
    arms = re.findall(r"^(.+?) +\d+ fast .+  test accuracy (\S+)  KL", shown["arms"], re.MULTILINE)
    assert [name for name, _ in arms] == ["Fast-slow", "Slow only", "Fast only"]
    fst, rl, gepa = (float(accuracy) for _, accuracy in arms)
    assert min(fst, gepa) > rl + 0.2, "a prompt that names the rule helps, and RL without one has hardly begun"
    assert len(arms) == len(COMPARED)
    assert shown["release"].startswith("verdict: release; bundle ")
    assert "reward is higher than production's by +" in shown["release"]
    answers = re.findall(r"^digits: .+  ->  (.+)  \(expected: (.+)\)$", shown["serve"], re.MULTILINE)
    assert len(answers) == 4
    assert any(answer == expected for answer, expected in answers)
    return answers


def printed(cell: dict[str, Any]) -> str:
    return "".join(line for output in cell["outputs"] for line in output["text"])


def test_n1_the_stored_outputs_show_what_the_text_says() -> None:
    answers = check({cell["id"]: printed(cell) for cell in CELLS if cell["cell_type"] == "code"})
    sorted_last = [" ".join(sorted(expected.split(), reverse=True)) for _, expected in answers]
    assert [answer for answer, _ in answers] == sorted_last, "right unless a 9 became 0"


def test_n4_the_files_that_it_links_to_exist() -> None:
    text = "".join(line for cell in CELLS if cell["cell_type"] == "markdown" for line in cell["source"])
    linked = re.findall(r"\]\(([^)#]+)", text)
    assert linked
    assert [name for name in linked if not (ROOT / "notebooks" / name).is_file()] == []


@pytest.mark.slow
def test_n2_n3_it_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # and back at the end: the cells go elsewhere
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ensure_running()  # of this process; it stays when the gateway's engine has ended
    before = set(psutil.Process().children(recursive=True))
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = {}
    for name, source in CODE.items():
        exec(compile(source, f"lab.ipynb, {name}", "exec"), names)
        shown[name] = capsys.readouterr().out
    check(shown)
    assert set(psutil.Process().children(recursive=True)) <= before
