"""docs/extending.md. Its Python blocks run from top to bottom, each addition in fewer than 20 lines, and what they add
is there for a process that has only the package installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fst.data.domains import FAMILIES
from fst.data.verifiers import VERIFIERS
from fst.tables import ENGINES

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ADDITIONS = [block for block in BLOCKS if re.search(r"^@", block, re.MULTILINE)]


@pytest.fixture
def tables() -> Iterator[None]:
    """The tables as they were, when the test is over."""
    kept = [(table.rows, dict(table.rows)) for table in (FAMILIES, VERIFIERS, ENGINES)]
    yield
    for rows, before in kept:
        rows.clear()
        rows.update(before)


@pytest.mark.usefixtures("tables")
def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(BLOCKS), "docs/extending.md", "exec"), {})
    assert (tmp_path / "estimates.jsonl").exists()
    assert "sums" in FAMILIES.rows
    assert "within" in VERIFIERS.rows
    assert "counting" in ENGINES.rows


def test_each_addition_takes_less_than_twenty_lines() -> None:
    added = [re.search(r"^@([\w.]+)", block, re.MULTILINE)[1] for block in ADDITIONS]  # type: ignore[index]
    assert added == ["family", "verifier", "ENGINES.add"]
    assert max(len([line for line in block.splitlines() if line.strip()]) for block in ADDITIONS) < 20


def test_an_installed_package_adds_them_for_every_process(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "mine-1.0.dist-info").mkdir(parents=True)
    (package / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        "[fst.domains]\nbroken = mine:nothing\nsums = mine:sums\n[fst.verifiers]\nwithin = mine:within\n"
    )
    (package / "mine.py").write_text("\n".join(ADDITIONS[:2]).replace('verifier="numeric"', 'verifier="within"'))
    prepare = (
        "from pathlib import Path\n"
        "from fst.data.domains import describe_families, load_domain\n"
        "from fst.data.prepared import load_prepared, write_prepared\n"
        "from fst.data.types import SplitSizes\n"
        "import sys; assert 'mine' not in sys.modules\n"
    )
    write = (
        "domain = load_domain('sums/9', SplitSizes(4, 2, 2), 0)\n"
        "write_prepared(domain, Path('prepared'), lambda questions: [1] * len(questions))\n"
        "print(*[text for described in describe_families()[-2:] for text in described], sep='|')\n"
    )
    read = (
        "domain = load_prepared(Path('prepared'))\n"
        "print(domain.verify(domain.train[0], f'{1.04 * int(domain.train[0].answer)}').reward)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{Path(__file__).resolve().parents[1]}"}
    broken = "broken|fst.domains: 'broken' cannot be loaded: module 'mine' has no attribute 'nothing'"
    listed = f"sums/99|sums of two whole numbers from 0 to 99|{broken}"
    for script, said in ((write, listed), (read, "1.0")):
        command = [sys.executable, "-c", prepare + script]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr
