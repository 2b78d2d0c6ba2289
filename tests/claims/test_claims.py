"""The claims' arithmetic, plan and verdicts. K1 to K5 as numbered in fst/claims/curves.py; K6 claims share runs, and
what others build on comes first; K7 verdicts follow from the figures: planted curves with known ratios; K8 what
cannot be told is not called a failure; K9 a stage's end, its prompt and what was forgotten are those of the run; K10 a
claim as a whole stands on its rows: most domains and none worse (C1, C2), or all; K11 another number of rollouts scales
everything that is spent; K12 what cannot be run is refused before anything is; K13 as in fst/claims/rows.py; K14 groups
with signal count until a run has learned, and variants are chosen by name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.claims.ablations import chosen, outcomes
from fst.claims.ablations import plan as plan_ablations
from fst.claims.curves import (
    Interval,
    Point,
    ceiling_interval,
    first_reach,
    fit_ceiling,
    interval,
    kl_at,
    matched_kl_ratio,
    ratio_interval,
    running_max,
)
from fst.claims.evidence import Evidence, Run
from fst.claims.judge import judge, sum_up
from fst.claims.page import figure_of, verdict
from fst.claims.plan import CLAIMS, COLD, DOMAINS, SIZES, TRANSFER, VARIANTS, Work, plan
from fst.claims.rows import Row, Target
from fst.cli import main
from fst.errors import ConfigError

ACCURACIES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def curve(accuracies: list[float], kl: float = 1.0, fast: int = 0) -> tuple[Point, ...]:
    """An evaluation every 10 steps of 128 rollouts; KL grows with the step."""
    return tuple(
        Point(10 * i, 1280 * i, 1280 * i + fast * (i > 0), a, kl * i, kl * i / 2) for i, a in enumerate(accuracies)
    )


@given(ACCURACIES, st.floats(0, 1))
def test_k1_first_reach_is_the_earliest(accuracies: list[float], level: float) -> None:
    found = first_reach(curve(accuracies), level)
    earlier = accuracies if found is None else accuracies[: int(found.steps) // 10]
    assert all(a < level for a in earlier)
    assert found is None or found.accuracy >= level


@given(ACCURACIES, st.floats(0, 1))
def test_k2_kl_is_read_between_what_was_seen(accuracies: list[float], level: float) -> None:
    own = curve(accuracies)
    found = kl_at(own, level)
    best = running_max(own)[-1]
    assert (found is None) == (best < level)
    if found is not None:
        reached = first_reach(own, level)
        assert reached is not None
        assert 0 <= found <= reached.kl


def test_k2_kl_of_a_known_curve() -> None:
    own = curve([0.0, 0.5, 0.4, 1.0])
    assert kl_at(own, 0.25) == 0.5
    assert kl_at(own, 0.75) == 2.0, "from the record at 0.5, not from the dip"
    assert matched_kl_ratio(curve([0, 0.5, 1.0], kl=0.2), curve([0, 0.5, 1.0], kl=0.8)) == pytest.approx(0.25)
    assert matched_kl_ratio(curve([0.9, 0.95]), curve([0.1, 0.2])) is None, "no accuracy in common"
    assert matched_kl_ratio(curve([0, 1.0]), curve([0, 1.0], kl=0.0)) is None


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8))
def test_k3_an_interval_holds_its_mean(values: list[float]) -> None:
    for found in (interval(values), ratio_interval(values)):
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.mean * (1 + 1e-9)
        assert found.mean <= found.high * (1 + 1e-9)
    assert ratio_interval(values).mean == pytest.approx(math.exp(np.mean(np.log(values))))


def test_k3_known_intervals_and_none_for_one_seed() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high == pytest.approx(2.0 + 4.30265 / math.sqrt(3), rel=1e-4)  # t(0.975, 2)
    assert (interval([1.0]).low, ratio_interval([4.0]).high) == (None, None)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 1.0), st.floats(1.0, 4.0), st.floats(500, 3000))
def test_k4_a_sigmoid_is_found_again(a: float, b: float, mid: float) -> None:
    points = [(c, 0.02 + (a - 0.02) / (1 + (mid / c) ** b) if c else 0.02) for c in range(0, 20000, 500)]
    found = fit_ceiling(points)
    assert found.a == pytest.approx(a, abs=0.02)
    assert found.doubt == ""


def test_k5_what_has_not_bent_or_risen_has_no_ceiling() -> None:
    assert fit_ceiling([(float(c), c / 20000) for c in range(0, 10000, 500)]).doubt == "the curve has not bent yet"
    assert fit_ceiling([(float(c), 0.1) for c in range(0, 10000, 500)]).doubt == "the curve does not rise"
    sparse = [(0.0, 0.1), (100.0, 0.5), (200.0, 0.7)]
    assert fit_ceiling(sparse).doubt == "it was evaluated less than three times"
    assert fit_ceiling([*sparse, (300.0, 0.72)]).doubt == ""


@pytest.mark.slow
def test_k4_the_interval_of_a_ceiling_spans_its_seeds() -> None:
    curves = [
        [(float(c), a / (1 + (1000 / c) ** 2) if c else 0.0) for c in range(0, 9000, 500)] for a in (0.7, 0.8, 0.9)
    ]
    fit, found = ceiling_interval(curves, 50, 0)
    assert found.low is not None
    assert found.high is not None
    assert 0.69 < found.low < fit.a < found.high < 0.91
    assert ceiling_interval(curves, 50, 0)[1] == found, "the same again"


@pytest.mark.slow
def test_k4_a_ceiling_at_its_bound_begins_at_what_was_seen() -> None:
    """A curve that is half-way up at once and creeps on: no sigmoid."""
    jump = [0.5 + 0.45 * math.log1p(c / 500) / math.log1p(24) if c else 0.0 for c in range(0, 12_001, 500)]
    curves = [[(500.0 * i, r + shift) for i, r in enumerate(jump)] for shift in (-0.01, 0.0, 0.01)]
    fit, found = ceiling_interval(curves, 50, 0)
    assert found.low is not None
    assert fit.a == pytest.approx(1.0, abs=1e-3)
    assert fit.settled == pytest.approx(0.93, abs=0.01)
    assert 0.91 < found.low < 0.95, "not [1, 1]"


def test_k6_runs_are_shared_and_starts_come_first() -> None:
    seeds = (10, 11)
    works = plan(tuple(CLAIMS), DOMAINS, seeds)
    assert len(set(works)) == len(works)
    assert len({w.name for w in works}) == len(works)
    assert all(w.start is None or works.index(w.start) < works.index(w) for w in works)
    runs = [w for w in works if w.kind == "run" and w.domain in DOMAINS]
    assert len(runs) == 5 * len(DOMAINS) * len(seeds)
    assert {w.arm for w in plan(["C9"], DOMAINS, seeds)} == {"fst", "rl_gepa", "gepa_rl"}
    assert len([w for w in works if w.kind == "transfer"]) == (1 + 2 * len(DOMAINS)) * len(seeds)
    assert {w.kind for w in plan(["C7"], DOMAINS, seeds)} == {"run"}
    with pytest.raises(ConfigError, match="C10: no such claim; known: C1, C2"):
        plan(["C10"], DOMAINS, seeds)


def test_k6_no_seed_or_rule_that_chose_a_default_is_reported_on() -> None:
    from fst.data.lab.corpus import held_out
    from fst.data.lab.rules import parse_rule, signature

    tuned = {signature(rule) for rule in held_out()["tune"]}
    known = {signature(rule) for rule in held_out()["eval"]}
    used = {signature(parse_rule(spec.removeprefix("lab/").removeprefix("letters:"))) for spec in DOMAINS}
    assert not used & tuned
    assert used <= known
    assert all(seed > 10 for size in SIZES.values() for seed in size.seeds)


A = "lab/a"


def run(arm: str, accuracies: list[float], seed: int = 10, domain: str = A, **facts: Any) -> Run:
    work = facts.pop("work", Work("run", arm, domain, seed))  # type: ignore[arg-type]
    own = curve(accuracies, kl=facts.pop("kl", 1.0), fast=facts.pop("fast", 0))
    cells = facts.pop("cells", {"base/seed": 0.0, "base/evolved": 0.5, "trained/seed": 0.2, "trained/evolved": 0.9})
    return Run(work, own, facts.pop("accuracy", accuracies[-1]), cells, {}, (), facts.pop("stages", ()), "p")


def rows(claim: str, runs: list[Run], measured: dict[Work, Any] | None = None) -> list[Row]:
    return judge([claim], [A], Evidence(tuple(runs), measured or {}))


def twice(runs: list[Run]) -> list[Run]:
    """The same on two seeds, so that the interval is the figure itself."""
    again = [replace(run, work=replace(run.work, seed=run.work.seed + 1)) for run in runs]
    return [*runs, *again]


def test_k7_c1_counts_rollouts_to_what_rl_reaches() -> None:
    runs = [run("rl", [0, 0.1, 0.2, 0.4, 0.3]), run("fst", [0, 0.2, 0.9], fast=100), run("gepa", [0, 0.5])]
    by = {row.measure.split(" of ")[0]: row for row in rows("C1", twice(runs))}
    assert by["RL steps"].ours == pytest.approx(30 / 20)
    assert by["all rollouts"].ours == pytest.approx(3840 / (2560 + 100))
    assert (by["all rollouts"].holds, by["RL steps"].holds) == (False, None), "no verdict without a target"
    runs[1] = run("fst", [0.5, 0.6])
    by = {row.measure.split(" of ")[0]: row for row in rows("C1", runs)}
    for name in ("RL steps", "training rollouts"):
        assert by[name].ours == pytest.approx(30), "what is there before the first step took one step"
    assert "FST was there before its first RL step on 1 of 1 seeds" in by["RL steps"].note
    runs[1] = run("fst", [0, 0.4])
    assert next(row for row in rows("C1", twice(runs)) if row.target).holds is True
    runs[1] = run("fst", [0, 0.39])
    missed = next(row for row in rows("C1", runs) if row.target)
    assert missed.holds is False
    assert "FST did not on 1 seeds" in missed.note


def test_k7_c3_c7_follow_from_the_figures() -> None:
    runs = [run("rl", [0, 0.5, 1.0]), run("fst", [0, 0.5, 1.0], kl=0.3), run("gepa", [0, 0.5])]
    assert [row.ours for row in rows("C3", runs)] == [pytest.approx(0.3)] * 2
    assert [row.holds for row in rows("C3", twice([runs[0], run("fst", [0, 0.5, 1.0], kl=0.2)]))] == [True, None]
    assert rows("C7", runs)[0].ours == pytest.approx(0.4)
    assert rows("C7", twice(runs))[0].holds is True
    weak = {"base/seed": 0.0, "base/evolved": 0.95, "trained/seed": 0.2, "trained/evolved": 0.9}
    assert rows("C7", twice([runs[0], run("fst", [0, 1], cells=weak), runs[2]]))[0].holds is False


def test_k7_c4_compares_with_the_same_seed_from_the_base() -> None:
    def transfer(arm: str | None, accuracy: float, seed: int) -> Run:
        start = Work("run", arm, A, seed) if arm else None  # type: ignore[arg-type]
        work = Work("transfer", "rl", TRANSFER, seed, start)
        return run("rl", [0, accuracy], accuracy=accuracy, work=work)

    runs = [
        transfer(arm, a, s)
        for s, scale in ((10, 1.0), (11, 0.5))
        for arm, a in ((None, scale), ("fst", 0.96 * scale), ("rl", 0.2 * scale))
    ]
    found = {("from fst" in row.measure): row for row in rows("C4", runs)}
    assert (found[True].ours, found[True].holds) == (pytest.approx(0.96), True)
    assert (found[False].ours, found[False].target) == (pytest.approx(0.2), "")


def test_k7_c6_a_run_that_never_leaves_zero_counts_whole() -> None:
    zero = {Work("zero", "base", COLD, 0): {"rollouts": 2000, "reward": 0.0}}
    runs = [run("rl", [0.0] * 11, domain=COLD), run("fst", [0, 0.2, 0.9], domain=COLD)]
    by = {row.measure.split(" until")[0]: row for row in rows("C6", twice(runs), zero)}
    assert by["all rollouts"].ours == pytest.approx(10)
    assert by["all rollouts"].holds is True
    assert "RL never left zero on 2 of 2 seeds (so the ratio is a lower bound)" in by["all rollouts"].note
    runs[0] = run("rl", [0.0] * 4, domain=COLD)
    short = next(row for row in rows("C6", twice(runs), zero) if row.target)
    assert (short.ours, short.holds) == (pytest.approx(3), None), "a lower bound below the target misses nothing"
    runs[1] = run("fst", [0.0] * 11, domain=COLD)
    neither = next(row for row in rows("C6", runs, zero) if row.target)
    assert (neither.holds, neither.ours, neither.each) == (False, None, (None,))


def test_k7_c8_noise_is_neither_loss_nor_gain() -> None:
    def measured(ours: list[float], theirs: list[float]) -> dict[Work, Any]:
        found: dict[Work, Any] = {}
        for arm, values in (("fst", ours), ("rl", theirs), ("base", theirs)):
            for seed, value in enumerate(values, 10):
                start = Work("run", arm, A, seed) if arm != "base" else None  # type: ignore[arg-type]
                found[Work("following", arm, A, seed, start)] = {"two-step": value}  # type: ignore[arg-type]
        return found

    runs = [run("fst", [0, 1], seed) for seed in (10, 11, 12)]
    assert rows("C8", runs, measured([0.7, 0.6, 0.8], [0.71, 0.6, 0.8]))[0].holds is None
    assert rows("C8", runs, measured([0.8, 0.8, 0.81], [0.71, 0.7, 0.7]))[0].holds is True
    assert rows("C8", runs, measured([0.5, 0.5, 0.51], [0.7, 0.71, 0.7]))[0].holds is False


def test_k7_c9_compares_with_the_sequence_that_is_better_over_all_seeds() -> None:
    def arms(seed: int, ours: float, slow_first: float, fast_first: float) -> list[Run]:
        return [
            run("fst", [0, ours], seed),
            run("rl_gepa", [0, 0.2, slow_first], seed),
            run("gepa_rl", [0, 0.2, fast_first], seed),
        ]

    runs = [*arms(10, 0.9, 0.7, 0.5), *arms(11, 0.9, 0.8, 0.85), *arms(12, 0.95, 0.8, 0.6)]
    accuracy, rollouts = rows("C9", runs)
    assert accuracy.measure == "accuracy of FST less rl_gepa's"
    assert accuracy.each == pytest.approx((0.2, 0.1, 0.15)), "rl_gepa, also on the seed where gepa_rl is better"
    assert (accuracy.holds, accuracy.target) == (True, "> 0")
    assert rollouts.each == pytest.approx((2.0, 2.0, 2.0))
    assert (rollouts.holds, rollouts.target) == (None, "")
    even = [*arms(10, 0.75, 0.7, 0.5), *arms(11, 0.7, 0.8, 0.85), *arms(12, 0.95, 0.8, 0.6)]
    assert rows("C9", even)[0].holds is None


def test_k9_c5_normalises_by_the_best_of_any_arm() -> None:
    chain = f"{A}>lab/b"

    def continual(arm: str, first: float, second: float, later: float) -> Run:
        stages = (
            {"ended": 1, "on": 0, "accuracy": first},
            {"ended": 2, "on": 0, "accuracy": later},
            {"ended": 2, "on": 1, "accuracy": second},
        )
        work = Work("continual", arm, chain, 10)  # type: ignore[arg-type]
        return run(arm, [0, first, 0, second], work=work, stages=stages)

    runs = [continual("fst", 0.96, 0.8, 0.7), continual("rl", 0.5, 0.2, 0.1), continual("gepa", 0.4, 0.4, 0.4)]
    alone = [
        run(arm, [0, 1], accuracy=a, domain=d) for arm, a, d in (("fst", 1.0, A), ("rl", 0.3, A), ("fst", 0.4, "lab/b"))
    ]
    found = judge(["C5"], [A, "lab/b"], Evidence(tuple(twice([*runs, *alone])), {}))
    ours = {(row.measure.split(":")[0], row.domain.split(",")[0]): row for row in found}
    assert ours["fst", A].ours == pytest.approx(0.96)
    assert ours["fst", "lab/b"].ours == pytest.approx(1.0)
    assert ours["rl", "lab/b"].ours == pytest.approx(0.25)
    assert (ours["fst", A].holds, ours["rl", A].holds) == (True, None), "rl has no target"
    assert "at the end of the run 70.0%" in ours["fst", A].note


def test_k8_what_cannot_be_told_is_not_a_failure() -> None:
    runs = [run("rl", [0.0] * 9), run("fst", [0, 0.9, 0.95, 0.96, 0.96]), run("gepa", [0, 0.5])]
    found = rows("C2", runs)
    assert [row.holds for row in found] == [None] * 3
    assert "not identified: rl: the curve does not rise" in found[0].note
    assert [(row.ours, row.low, row.high) for row in found] == [(None, None, None)] * 3, "no fit, no figure"
    assert [verdict(row) for row in found] == ["cannot be told"] * 3
    bent = [run("rl", [0, 0.2, 0.4, 0.5, 0.5, 0.5]), run("fst", [0, 0.9, 0.95, 0.96, 0.96]), run("gepa", [0, 0.5])]
    assert rows("C2", bent)[-1].holds is None, "one seed has no interval"
    undefined = Row("C3", A, "m", "x", None, None, None, "", "<= 0.3", None, (10,))
    assert (figure_of(undefined), verdict(undefined)) == ("not defined", "cannot be told")
    assert figure_of(Row("C7", A, "m", "points", 0.123, 0.1, 0.15, "", "> 0", True, (10,))) == "+12.3 [+10.0, +15.0]"


@pytest.mark.parametrize(
    ("claim", "found", "holds"),
    [
        ("C1", [(4.0, True), (3.5, True), (1.2, False)], True),
        ("C1", [(4.0, True), (3.5, True), (0.8, False)], False),
        ("C1", [(4.0, True), (3.5, True), (1.05, False)], None),
        ("C1", [(4.0, True), (3.5, True), (3.05, None)], True),
        ("C1", [(4.0, True), (2.0, False), (1.2, False)], False),
        ("C2", [(0.2, True), (0.15, True), (0.11, True)], True),
        ("C2", [(0.2, True), (0.15, True), (0.05, None)], None),
        ("C2", [(0.2, True), (None, None), (None, None)], None),
        ("C2", [(0.3, True), (0.2, True), (-0.2, False)], False),
        ("C3", [(0.2, True), (0.2, True), (0.4, False)], False),
        ("C3", [(0.2, True), (None, None), (0.1, True)], None),
        ("C3", [(0.5, False), (None, None), (0.1, True)], False),
        ("C7", [(0.2, True), (0.2, True), (0.3, True)], True),
        ("C7", [(0.2, True), (0.2, True), (0.05, None)], None),
    ],
)
def test_k10_a_claim_stands_on_its_rows(
    claim: str, found: list[tuple[float | None, bool | None]], holds: bool | None
) -> None:
    """Each figure's interval reaches 0.1 to both sides."""
    rows = [
        Row(claim, A, "m", "x", ours, ours and ours - 0.1, ours and ours + 0.1, "", "some", held, (10,))
        for ours, held in found
    ]
    rows.append(Row(claim, A, "without a target", "x", 0.0, None, None, "", "", None, (10,)))
    (verdict,) = sum_up(rows)
    held = sum(one is True for _, one in found)
    assert (verdict.claim, verdict.held, verdict.rows, verdict.holds) == (claim, held, 3, holds)


@pytest.mark.parametrize(
    ("target", "low", "high", "met"),
    [
        (Target(">=", 3, "x"), 3.0, 4.0, True),
        (Target(">=", 3, "x"), 2.9, 4.0, None),
        (Target(">=", 3, "x"), 1.0, 2.9, False),
        (Target(">", 0), 0.0, 1.0, None),
        (Target(">", 0), 0.1, 1.0, True),
        (Target(">", 0), 0.0, 0.0, False),
        (Target("<=", 0.3), 0.0, 0.3, True),
        (Target("<=", 0.3), 0.2, 0.4, None),
        (Target("<=", 0.3), 0.31, 0.4, False),
        (Target("<=", 0.3), None, None, None),
    ],
)
def test_k13_a_verdict_is_that_of_the_interval(
    target: Target, low: float | None, high: float | None, met: bool | None
) -> None:
    assert target.met(Interval(math.nan if low is None else low, low, high)) is met


def test_k13_two_seeds_that_disagree_tell_nothing() -> None:
    """C7 of +23.5 points from two seeds at +0.4 and +46.6: the mean meets the target, the interval does not."""

    def joint(points: float, seed: int) -> Run:
        cells = {"base/seed": 0.0, "base/evolved": 0.5, "trained/seed": 0.2, "trained/evolved": 0.5 + points}
        return run("fst", [0, 1], seed, cells=cells)

    others = [run(arm, [0, 0.5], seed) for arm in ("rl", "gepa") for seed in (10, 11)]
    (row,) = rows("C7", [joint(0.004, 10), joint(0.466, 11), *others])
    assert figure_of(row) == "+23.5 [-270.0, +317.0]"
    assert (verdict(row), sum_up([row])[0].holds) == ("cannot be told", None)
    (row,) = rows("C7", [joint(0.22, 10), joint(0.25, 11), *others])
    assert (figure_of(row), verdict(row)) == ("+23.5 [+4.4, +42.6]", "holds")
    (row,) = rows("C7", [joint(0.22, 10), *others[::2]])
    assert (figure_of(row), verdict(row)) == ("+22.0", "cannot be told"), "one seed has no interval"


def test_k11_another_number_of_rollouts_scales_all_that_is_spent() -> None:
    full = SIZES["full"]
    twice = full.scaled(2 * full.rollouts)
    assert (twice.rollouts, twice.transfer, twice.stage, twice.cold) == (24_576, 18_432, 10, 12_288)
    assert (twice.zero, twice.problems, twice.seeds) == (full.zero, full.problems, full.seeds)
    assert twice.name != full.name, "records of another size lie in another folder"
    assert full.scaled(1).stage == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["C10"], "C10: no such claim; known: C1,"),
        (["--domains", "lab/nonsense"], "unknown operation 'nonsense'"),
        (["--domains", "lab/reverse", "lab/reverse"], "each only once"),
        (["--rollouts", "127"], "--rollouts 127: one RL step takes 128"),
        (["--jobs", "0"], "--jobs 0: at least 1"),
        (["--out", "file/inside"], "--out file/inside: cannot be made a folder (Not a directory)"),
    ],
)
def test_k12_what_cannot_be_run_is_refused_before_anything_is(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["bench", "claims", *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("events.jsonl"))


def test_k14_groups_with_signal_are_counted_until_the_run_has_learned() -> None:
    def made(seed: int, accuracies: list[float], signal: tuple[float, ...]) -> Run:
        work = Work("run", "fst", A, seed, variant="reuse")
        return replace(run("fst", accuracies, work=work), signal=signal)

    learned = made(30, [0.0, 0.5, 0.95], (0.25,) * 10 + (0.75,) * 10 + (0.0,) * 5)  # has 0.9 after 20 steps
    never, at_once = made(31, [0.0, 0.5], (0.0,) * 5 + (0.5,) * 5), made(32, [0.95], ())
    found = outcomes([A], ["reuse"], Evidence((learned, never, at_once), {}))
    assert [(one.variant, one.seeds, one.reached, one.signal) for one in found] == [("reuse", (30, 31, 32), 2, 0.375)]
    assert outcomes([A], ["reuse"], Evidence((at_once,), {}))[0].signal is None
    with pytest.raises(ConfigError, match="--variants 'reus': no such variant; did you mean 'reuse'"):
        chosen(["reus"])
    assert chosen([]) == tuple(VARIANTS)
    assert [work.variant for work in plan_ablations([A], [30], ["reuse"])] == ["reuse"]
