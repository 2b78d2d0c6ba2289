"""A run's tables. X1 Parquet and JSON lines hold the same rows: the rollouts in force, the prompts of the lineage; X2
values keep their types where a row lacks them, and a run without rollouts gives an empty table with its columns; X3
nothing is overwritten, and nothing but the tables is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from fst.cli import main
from fst.types import prompt_id
from support.run_toys import GOOD, SEED, evaluation, prompt, spent, write_run


def rollout(round_: int, problem: str, reward: float) -> dict[str, Any]:
    facts = {
        "channel": "fast",
        "problem_id": problem,
        "prompt_id": prompt_id(SEED),
        "weights": 0,
        "text": f"to {problem}",
    }
    return {"round": round_, **facts, "tokens": 3, "logprob": -1.5, "reward": reward, "feedback": ""}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose second round was cut off once: what it had drawn then is void."""
    monkeypatch.chdir(tmp_path)
    events = [prompt(SEED, 0, 0.25), prompt(GOOD, 1, 0.75, SEED), evaluation(1, 0, 0.5, 0.1, spent(0, 4))]
    folder = write_run(tmp_path / "runs", "fst", 0, events)
    lines = [rollout(0, "a", 1), rollout(1, "void", 0), {"kind": "resume", "round": 1}, rollout(1, "b", 0.5)]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_x1_x3_both_forms_hold_the_same_rows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--parquet"]) == 0
    folder = Path("reports/export") / run.name
    assert f"2 rows: {folder / 'rollouts.parquet'}" in capsys.readouterr().out
    rollouts, prompts = (pandas.read_parquet(folder / f"{name}.parquet") for name in ("rollouts", "prompts"))
    assert list(rollouts["problem_id"]) == ["a", "b"]
    assert list(rollouts["reward"]) == [1.0, 0.5]
    assert list(rollouts["purpose"]) == ["fast", "fast"]
    assert list(prompts["text"]) == [SEED, GOOD]
    assert [list(parents) for parents in prompts["parents"]] == [[], [prompt_id(SEED)]]
    assert list(prompts["score"]) == [0.25, 0.75]
    assert sorted(path.name for path in folder.iterdir()) == ["prompts.parquet", "rollouts.parquet"]
    assert main(["export", str(run), "--out", "tables"]) == 0
    lines = [json.loads(line) for line in Path("tables/rollouts.jsonl").read_text().splitlines()]
    assert lines == json.loads(rollouts.to_json(orient="records"))
    assert main(["export", str(run), "--out", "tables"]) == 2
    assert "rollouts.jsonl is there already" in capsys.readouterr().err


def test_x2_a_run_without_rollouts_has_an_empty_table_with_its_columns(run: Path) -> None:
    (run / "rollouts.jsonl").write_text("")
    assert main(["export", str(run), "--parquet", "--out", "tables"]) == 0
    empty = pandas.read_parquet("tables/rollouts.parquet")
    assert len(empty) == 0
    assert list(empty.columns)[:3] == ["round", "purpose", "problem_id"]
    assert empty["reward"].dtype == float
