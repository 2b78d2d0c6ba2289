"""The README tells the truth: R1 its Python example runs; R2 the files of its map exist; R3 its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fst.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_r1_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    accuracy, prompt = capsys.readouterr().out.split(" ", 1)
    assert 0.0 <= float(accuracy) <= 1.0
    assert prompt.strip()
    assert (tmp_path / "runs" / "example" / "events.jsonl").exists()


def test_r2_the_files_of_the_map_exist() -> None:
    section = README.split("## Where things are")[1].split("## Glossary")[0]
    names = re.findall(r"`([\w./*]+)`", section)
    assert len(names) > 30
    missing = [n for n in names if "/" in n and not list(ROOT.glob(n.rstrip("/")))]
    assert not missing


def test_r3_the_commands_exist() -> None:
    """Every `fst ...` of the README is parsed by the command line itself, options and all."""
    lines = re.findall(r"^fst .*", README, re.MULTILINE)
    commands = [shlex.split(part)[1:] for line in lines for part in re.split(r"[;&]", line.partition("  #")[0])]
    written = [[word for word in words if word != "..."] for words in commands if words]
    assert {"train", "run", "report", "evaluate", "bench", "doctor"} <= {words[0] for words in written}
    for words in written:
        app.parse_args(words, exit_on_error=False)
