"""The whole on the shipped model, small: E1 three arms end and the summary keeps its contract; E2 each arm counts
what it may spend and nothing else; E3 the frozen arm has no drift; E4 `fst evaluate` measures a run again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fst.cli import main

pytestmark = pytest.mark.slow

SMALL = (
    *("loop.cycles=2", "loop.steps_per_cycle=2", "prepare.validation=20", "prepare.test=20", "prepare.train=128"),
    *("slow.problems_per_step=4", "fast.anchors=16", "fast.budget=120", "evaluate.samples=2"),
    *("evaluate.kl_problems=10", "reflector.proposals=32", "model.threads=1"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = [o for setting in SMALL for o in ("--set", setting)]
    code = main(["run", "--runs", str(folder / "runs"), "--out", str(folder / "report"), "--quiet", *options])
    assert code == 0
    return folder


def test_e1_the_summary_keeps_its_contract(run: Path) -> None:
    summary = json.loads((run / "report" / "summary.json").read_text())
    assert summary["seeds"] == [0]
    assert {"domains", "seeds", "commit", "versions"} <= set(summary)
    arms = summary["domains"]["lab/sort_desc+add_one"]["arms"]
    assert set(arms) == {"fst", "rl", "gepa"}
    for arm in arms.values():
        assert {"accuracy", "kl", "rollouts", "seconds"} <= set(arm)
        assert set(arm["rollouts"]) == {"train", "fast", "eval"}
    page = (run / "report" / "index.html").read_text()
    assert "solve the task" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_e2_every_rollout_is_counted_once(run: Path) -> None:
    arms = json.loads((run / "report" / "summary.json").read_text())["domains"]["lab/sort_desc+add_one"]["arms"]
    per_step = 4 * 8
    assert arms["fst"]["rollouts"]["train"] == 2 * 2 * per_step
    assert 0 < arms["fst"]["rollouts"]["fast"] <= 2 * 120
    assert arms["rl"]["rollouts"]["fast"] == 0
    assert arms["rl"]["rollouts"]["train"] >= 2 * (120 + 2 * per_step)
    assert arms["gepa"]["rollouts"]["train"] == 0
    for folder in (run / "runs").iterdir():
        lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
        (end,) = [e for e in map(json.loads, (folder / "events.jsonl").read_text().splitlines()) if e["kind"] == "end"]
        counted = {c: sum(line["channel"] == c for line in lines) for c in ("train", "fast", "eval")}
        assert counted == end["rollouts"]


def test_e3_frozen_weights_do_not_drift(run: Path) -> None:
    arms = json.loads((run / "report" / "summary.json").read_text())["domains"]["lab/sort_desc+add_one"]["arms"]
    assert arms["gepa"]["kl"] == 0.0
    assert arms["fst"]["kl"] > 0.0


def test_e4_evaluate_measures_a_run_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (run / "runs").glob("*-fst-*")
    before = (folder / "events.jsonl").read_bytes()
    assert main(["evaluate", str(folder), "--split", "validation", "--prompt", "write the list backwards"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rollouts"] == 20 * 2
    assert result["prompt"] == "write the list backwards"
    assert 0.0 <= result["accuracy"] <= 0.2
    assert (folder / "events.jsonl").read_bytes() == before
