"""The notebook tells the truth. N1 its cells run from top to bottom in a project of their own, and show what the text
says that they show; N2 it leaves no process behind."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "lab.ipynb"


@pytest.mark.slow
def test_n1_n2_it_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # and back at the end: the cells go elsewhere
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown, names = [], {"__name__": "__main__"}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, {cell['id']}", "exec"), names)
            shown.append(capsys.readouterr().out)
    _, trained, prompts, compared, released, served = shown
    before, after = map(float, re.findall(r"(0\.\d+|1\.0+) (?:before|after)", trained))
    assert after > before + 0.2, "the model learns in the notebook"
    assert prompts.startswith("1  ")
    assert "reflection" in prompts.splitlines()[0]
    assert all(arm in compared for arm in ("Fast-slow", "Slow only", "Fast only"))
    assert released.startswith("release: bundle ")
    answers = re.findall(r"^(.+)  ->  (.+)  \(expected: (.+)\)$", served, re.MULTILINE)
    assert len(answers) == 3
    assert any(answer == expected != question for question, answer, expected in answers)
    assert not psutil.Process(os.getpid()).children(recursive=True)
