"""The claims' work, run for real at a tiny size. M1 the same seeds give the same JSON; M2 what is done is kept, also
after a piece was cut off; M3 a continual run switches at the fixed points, tells nobody, and keeps each stage's
prompt; M4 a transfer begins with the other run's weights and the seed prompt; M5 the page shows every claim and asks
nobody; M6 a piece that fails is named, and the rest is done; M7 kill -9 leaves no worker behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fst.claims.evidence import Evidence, gather
from fst.claims.judge import judge
from fst.claims.page import tables, write
from fst.claims.plan import CLAIMS, Size, Work, plan
from fst.claims.rows import Row
from fst.claims.run import ClaimsError, run_all
from fst.claims.work import do, is_done, merged
from fst.config import Params, load_params
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.method.learner import Learner
from fst.runs.view import load_run
from support.browser import CHROMIUM, chromium
from support.lab_project import alive, descendants, environment, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ("lab/sort_desc+drop_last", "lab/letters:drop_first+rotate_left")
SIZE = Size("tiny", (3,), 2, 200, 96, 1, 96, 64, 16)


@pytest.fixture(scope="module")
def params() -> Params:
    small: dict[str, Any] = {
        "slow": {"problems_per_step": 2},
        "fast": {"budget": 60, "anchors": 8, "minibatch": 4, "patience": 1},
        "reflector": {"proposals": 16},
        "loop": {"steps_per_cycle": 2},
        "prepare": {"train": 64},
        "evaluate": {"samples": 2, "kl_problems": 8},
    }
    return merged(load_params(ROOT / "params.yaml"), small)


@pytest.fixture(scope="module")
def works() -> tuple[Work, ...]:
    """All claims on one domain; the continual runs on two."""
    one = plan([claim for claim in CLAIMS if claim != "C5"], DOMAINS[:1], SIZE.seeds)
    return (*one, *(work for work in plan(("C5",), DOMAINS, SIZE.seeds) if work.kind == "continual"))


def judged(evidence: Evidence) -> list[Row]:
    one = judge([claim for claim in CLAIMS if claim != "C5"], DOMAINS[:1], evidence)
    return [*one, *judge(("C5",), DOMAINS, evidence)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, params: Params, works: tuple[Work, ...]) -> Path:
    folder = tmp_path_factory.mktemp("claims")
    run_all(works, params, SIZE, folder, 2)
    return folder


def documents(works: tuple[Work, ...], folder: Path, out: Path) -> dict[str, bytes]:
    evidence = gather(works, folder)
    write(out, judged(evidence), evidence, {"budget": "tiny"})
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_m3_a_continual_run_switches_at_the_fixed_points(works: tuple[Work, ...], folder: Path) -> None:
    work = next(w for w in works if w.kind == "continual" and w.arm == "fst")
    stages = next(run for run in gather(works, folder).runs if run.work == work).stages
    assert [(s["ended"], s["on"]) for s in stages] == [(1, 0), (2, 0), (2, 1)]
    assert stages[0]["prompt"] == stages[1]["prompt"], "the stage's own prompt is kept"
    lines = [json.loads(line) for line in (folder / work.name / "rollouts.jsonl").read_text().splitlines()]
    trained = {r: {x["problem_id"] for x in lines if x["round"] == r and x["channel"] == "train"} for r in (1, 3)}
    known = [{p.id for p in load_domain(spec, SplitSizes(64, 16, 16), 3).train} for spec in DOMAINS]
    assert trained[1]
    assert trained[1] <= known[0]
    assert trained[3]
    assert trained[3] <= known[1]
    assert load_run(folder / work.name).steps[-1]["step"] == 4


def test_m2_a_continual_run_that_was_cut_off_between_stages_ends_the_same(
    works: tuple[Work, ...], folder: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off when the first stage's last round is saved and nothing of the stage is told yet."""
    work = next(w for w in works if w.kind == "continual" and w.arm == "fst")

    def killed(learner: Learner, domains: object, cycles: int) -> None:
        if learner.cycle == cycles:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fst.claims.work._stages", killed)
        with pytest.raises(KeyboardInterrupt):
            do(work, params, SIZE, tmp_path)
    do(work, params, SIZE, tmp_path)
    ends = [load_run(place / work.name).end for place in (folder, tmp_path)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0]["adapter_sha256"] == ends[1]["adapter_sha256"]
    assert ends[0]["prompts"] == ends[1]["prompts"]
    told = [
        [(e["ended"], e["on"]) for line in (place / work.name / "events.jsonl").read_text().splitlines()
         if (e := json.loads(line))["kind"] == "stage"]
        for place in (folder, tmp_path)
    ]  # fmt: skip
    assert told[0] == told[1]


def test_m4_a_transfer_begins_with_the_weights_alone(works: tuple[Work, ...], folder: Path) -> None:
    by_start = {w.start.arm if w.start else "": w for w in works if w.kind == "transfer" and w.domain}
    views = {arm: load_run(folder / w.name) for arm, w in by_start.items()}
    kls = {arm: view.evaluations[0]["kl"] for arm, view in views.items()}
    assert kls[""] == 0.0
    assert kls["rl"] > 0 or kls["fst"] > 0
    assert {view.end["prompts"][0] for view in views.values() if view.end} == {"solve the task"}


def test_m1_the_same_seeds_give_the_same_json(
    works: tuple[Work, ...], folder: Path, params: Params, tmp_path: Path
) -> None:
    few = plan(("C7",), DOMAINS[:1], SIZE.seeds)
    again = tmp_path / "again"
    run_all(few, params, SIZE, again, 2)
    found: list[list[bytes]] = []
    for place in (folder, again):
        evidence = gather(few, place)
        out = tmp_path / f"out{len(found)}"
        write(out, judge(("C7",), DOMAINS[:1], evidence), evidence, {})
        found.append([(out / name).read_bytes() for name in ("claims.json", "runs.json")])
    assert found[0] == found[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_m5_the_page_shows_every_claim_and_asks_nobody(works: tuple[Work, ...], folder: Path, tmp_path: Path) -> None:
    written = documents(works, folder, tmp_path / "out")
    told = json.loads(written["claims.json"])
    rows = told["rows"]
    assert {one["claim"] for one in told["verdicts"]} == set(CLAIMS)
    keys = {"claim", "domain", "ours", "low", "high", "paper", "target", "holds", "seeds"}
    assert all(keys <= set(row) for row in rows)
    assert {row["claim"] for row in rows} == set(CLAIMS)
    Console(width=160).print(*tables(judged(gather(works, folder))))
    with chromium() as page:
        page.open((tmp_path / "out" / "index.html").as_uri())
        assert page.run("document.querySelectorAll('h2[id]').length") == len(CLAIMS)
        assert page.run("document.querySelectorAll('#verdicts tbody tr').length") == len(CLAIMS)
        assert page.run("document.querySelectorAll('#chart path').length") > 3
        groups = page.run("[...document.querySelectorAll('#group option')].map(o => o.value)")
        assert any(group.startswith("continual") for group in groups)
        before = page.run("document.getElementById('chart').innerHTML")
        page.run("(() => { const s = document.getElementById('y'); s.value = 'kl'; s.onchange(); })()")
        assert page.run("document.getElementById('chart').innerHTML") != before
        assert page.errors == []


def test_m2_m6_what_is_done_is_kept_and_what_fails_is_named(
    works: tuple[Work, ...], folder: Path, params: Params, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime for path in folder.rglob("events.jsonl")}
    run_all(works, params, SIZE, folder, 2)
    assert {path: path.stat().st_mtime for path in folder.rglob("events.jsonl")} == before
    bad = Work("run", "gepa", "lab/no_such_rule", 3)
    good = Work("run", "gepa", DOMAINS[0], 3)
    after = Work("following", "rl", "lab/no_such_rule", 3, bad)
    with pytest.raises(
        ClaimsError, match=r"2 of 3 pieces of work failed, first run-gepa-lab-no-such-rule-s3: .*unknown"
    ):
        run_all((bad, good, after), params, SIZE, tmp_path, 2)
    assert is_done(good, tmp_path)


def test_m7_a_killed_bench_leaves_no_worker_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fst.cli", "bench", "claims", "C7", "--jobs", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), stderr=subprocess.PIPE
    ) as bench:
        try:
            begun = tmp_path / "runs" / "claims" / "small"
            wait_until(lambda: len(list(begun.glob("*/events.jsonl"))) == 2, 200, "no two runs were begun")
            family = descendants(bench.pid)
        finally:
            bench.kill()
    assert len(family) >= 3, "the workers and the process that they are forks of"
    wait_until(lambda: not any(map(alive, family)), 20, "a worker of the killed command lives on")
