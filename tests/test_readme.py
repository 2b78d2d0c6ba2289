"""The README tells the truth: R1 its Python example runs; R2 the files of its map exist; R3 its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fst.cli import build_parser

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
    subcommands = set(re.findall(r"^fst ([a-z-]+)", README, re.MULTILINE))
    assert {"train", "run", "report", "evaluate", "bench", "doctor"} <= subcommands
    known = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert subcommands <= set(known)
