"""The releases in a report. L1 each cell is the bundle's own evaluation, a change is against the domain's first
release; L2 a rollback is a row of its own; L3 texts are escaped, and the page has no outside address; L4 summary.json
has releases only when there are any; L5 domains stand in the order of their arrival."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fst.release.history import ReleaseView, arrivals, load_releases, releases_table
from fst.report.build import build_report
from fst.store.bundle import Bundle
from fst.store.channel import Entry
from support.run_toys import fst_events, write_run

EVIL = "<script>alert(1)</script>"


def bundle(trained_on: str, rewards: dict[str, float], prompt: str = "sort it") -> Bundle:
    interval = {"mean": 0.25, "low": 0.125, "high": 0.375}
    finding = {"rule": "reward", "domain": "", "passed": True, "sentence": "reward is higher"}
    documents: dict[str, Any] = {
        "evaluation.json": {d: {"reward": r, "kl": 0.5} for d, r in rewards.items()},
        "prompts.json": {d: {"prompts": [{"text": f"{prompt} {d}"}], "ancestry": []} for d in rewards},
        "gate.json": {"verdict": "release", "intervals": {"": interval}, "findings": [finding]},
    }
    manifest = {"domains": {d: {"spec": f"lab/{d}"} for d in rewards}, "run": {"domain": trained_on}}

    class Held(Bundle):
        def evaluation(self) -> dict[str, Any]:
            return dict(documents["evaluation.json"])

        def prompts(self) -> dict[str, Any]:
            return dict(documents["prompts.json"])

        def gate(self) -> dict[str, Any] | None:
            return dict(documents["gate.json"])

    return Held(Path(), manifest)


def entry(letter: str, action: Any = "release") -> Entry:
    return Entry(letter * 64, action, "2026-01-02T03:04:05+00:00", "because")


@pytest.fixture
def releases() -> list[ReleaseView]:
    held = {
        "a" * 64: bundle("zebra", {"zebra": 0.9}),
        "b" * 64: bundle("ant", {"ant": 0.5, "zebra": 0.8125}, prompt=EVIL),
    }
    return load_releases([entry("a"), entry("b"), entry("a", "rollback")], held.__getitem__)


def test_l1_cells_are_the_evaluation_and_changes_count_from_the_first_release(releases: list[ReleaseView]) -> None:
    first, second, back = releases
    assert (first.cells["zebra"].reward, first.cells["zebra"].kl, first.cells["zebra"].change) == (0.9, 0.5, None)
    assert second.cells["zebra"].change == pytest.approx(-0.0875)
    assert second.cells["ant"].change is None
    assert "ant" not in back.cells
    assert back.cells["zebra"].change == 0.0
    assert first.difference == {"mean": 0.25, "low": 0.125, "high": 0.375}


def test_l5_domains_in_the_order_of_arrival(releases: list[ReleaseView]) -> None:
    assert arrivals(releases) == ["zebra", "ant"]


def test_l2_the_terminal_table_shows_every_move(releases: list[ReleaseView]) -> None:
    table = releases_table(releases)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["a" * 12, "b" * 12, "a" * 12 + " (rollback)"]
    assert columns[2] == ["0.900", "0.812 (-0.088)", "0.900 (+0.000)"]
    assert columns[3] == ["", "0.500", ""]


@pytest.mark.slow
def test_l3_l4_the_page_and_the_summary(tmp_path: Path, releases: list[ReleaseView]) -> None:
    run = write_run(tmp_path / "run", "fst", 0, fst_events(0.9))
    page = build_report([run], tmp_path / "with", "title", releases).read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ant" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "-8.8 points" in page
    assert page.count("rollback") == 1
    summary = json.loads((tmp_path / "with" / "summary.json").read_text())
    assert [(r["action"], r["domain"], r["verdict"]) for r in summary["releases"]] == [
        ("release", "zebra", "release"),
        ("release", "ant", "release"),
        ("rollback", "zebra", "release"),
    ]
    assert summary["releases"][1]["reward"] == {"ant": 0.5, "zebra": 0.8125}
    build_report([run], tmp_path / "without", "title")
    assert "releases" not in json.loads((tmp_path / "without" / "summary.json").read_text())
    assert 'id="releases"' not in (tmp_path / "without" / "index.html").read_text()
