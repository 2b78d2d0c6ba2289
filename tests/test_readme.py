"""The README tells the truth: R1 its Python example runs; R2 its loop is the loop, its files and rooms exist; R3 its
commands exist; R4 it can be read in three minutes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fst.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_r1_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = next(block for block in BLOCKS if "run_job" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    accuracy, prompt = capsys.readouterr().out.split(" ", 1)
    assert 0.0 <= float(accuracy) <= 1.0
    assert prompt.strip()
    assert (tmp_path / "runs" / "example" / "events.jsonl").exists()


def test_r2_the_loop_shown_is_the_loop() -> None:
    (shown,) = [block for block in BLOCKS if block.startswith("def rounds")]
    assert shown.strip() in (ROOT / "fst" / "method" / "loop.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))])
def test_r2_the_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named = re.findall(r"(?<![\w/.-])((?:fst|tests|pipelines|params)/[\w/.-]*\w\.(?:py|yaml|md))\b", text)
    missing = [n for n in linked if not ((ROOT / page).parent / n).exists()] + [
        n for n in named if not (ROOT / n).exists()
    ]
    assert not missing


def test_r2_every_room_is_in_the_map() -> None:
    listed = README.split("## Where things are")[1].split("```")[1]
    rooms = {folder.name for folder in (ROOT / "fst").iterdir() if (folder / "__init__.py").exists()}
    assert rooms <= set(listed.split())


def test_r4_it_is_short() -> None:
    assert len(README.encode()) <= 9_000


def test_r3_the_commands_exist() -> None:
    """Every `fst ...` of the README is parsed by the command line itself, options and all."""
    lines = re.findall(r"^fst .*", README, re.MULTILINE)
    commands = [shlex.split(part)[1:] for line in lines for part in re.split(r"[;&]", line.partition("  #")[0])]
    written = [[word for word in words if word != "..."] for words in commands if words]
    assert {"train", "run", "validate", "serve"} <= {words[0] for words in written}
    for words in written:
        app.parse_args(words, exit_on_error=False)
