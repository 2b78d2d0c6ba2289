"""Progress in the terminal: plain lines, the live panel, and the estimate of the time left, on a hand-set clock."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from fst.runs.progress import Progress
from fst.types import Arm


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(arm: Arm = "fst", *, terminal: bool = False, quiet: bool = False) -> tuple[Progress, Clock, io.StringIO]:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    return Progress(12, 2, arm, "lab/[red]x", quiet=quiet, console=console, clock=clock), clock, out


def test_steps_print_a_line_at_most_every_five_seconds() -> None:
    progress, clock, out = make("rl")
    with progress:
        progress.round_started("slow", 0)
        for step in range(1, 13):
            clock.now += 2.0
            progress.step(step, step / 100, "3.5 s" if step == 10 else "")
    lines = out.getvalue().splitlines()
    assert lines[0] == "[rl] lab/[red]x | round: slow round, cycle 1 of 2 | left: not known yet"
    assert [line.split(" | ")[1] for line in lines[1:]] == [
        f"step: {step} of 12, reward {step / 100:.3f}{', 3.5 s' * (step == 10)}" for step in (1, 4, 7, 10)
    ]


def test_evaluations_always_print_and_cannot_control_the_terminal() -> None:
    progress, _, out = make()
    progress.step(1, 0.5)
    progress.evaluated(1, "62.5%", 0.0123, "Sort.\n\x1b[2J[bold]Then add one." + "x" * 300)
    progress.evaluated(1, "62.5%", 0.0123, "")
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "validation: 62.5% at step 1, KL 0.0123" in lines[1]
    assert "prompt: Sort. [2J[bold]Then add one.xxx" in lines[1]
    assert "\x1b" not in lines[1]
    assert lines[1].count("x") < 160


def test_time_left_follows_the_pace_of_both_kinds_of_round() -> None:
    progress, clock, _ = make()
    progress.round_started("fast", 0)
    clock.now = 10.0
    progress.fast(25, 100, 0.4)
    assert progress.time_left() is None  # no RL step seen yet
    clock.now = 40.0
    progress.round_started("slow", 0)
    clock.now = 58.0
    for step in range(1, 7):
        progress.step(step, 0.5)
    assert progress.time_left() == pytest.approx(40 + 6 * 3)  # a fast round of 40 s, six steps of 3 s
    progress.round_started("fast", 1)
    clock.now = 78.0
    progress.fast(50, 100, 0.4)
    assert progress.time_left() == pytest.approx(20 + 6 * 3)


@pytest.mark.parametrize(("arm", "kind", "expected"), [("gepa", "fast", 45.0), ("rl", "slow", 55.0)])
def test_time_left_counts_only_what_the_arm_does(arm: Arm, kind: str, expected: float) -> None:
    progress, clock, _ = make(arm)
    progress.round_started(kind, 0)
    clock.now = 15.0 if arm == "gepa" else 5.0
    if arm == "gepa":
        progress.fast(50, 100, 0.1)
    else:
        progress.step(1, 0.1)
    assert progress.time_left() == pytest.approx(expected)


def test_a_resumed_run_counts_only_the_steps_it_saw() -> None:
    progress, clock, _ = make("rl")
    progress.round_started("slow", 1)
    clock.now = 4.0
    progress.step(10, 0.5)
    assert progress.time_left() == pytest.approx(8.0)  # two steps remain, four seconds each


def test_a_budget_of_nothing_divides_by_nothing() -> None:
    progress, _, out = make()
    progress.round_started("fast", 0)
    progress.fast(0, 0, 0.0)
    assert "0 of 0 rollouts" in out.getvalue()


def test_a_heartbeat_comes_where_nothing_else_does_for_half_a_minute() -> None:
    progress, clock, out = make("fst")
    drawn = 500
    progress.drawn = lambda: drawn
    progress.round_started("fast", 0)
    progress.fast(8, 96, 0.25)
    for _ in range(29):
        clock.now += 1.0
        progress.beat()
    assert len(out.getvalue().splitlines()) == 2
    progress.counted(40)
    progress.counted(2)
    drawn = 2_000
    clock.now += 1.0
    progress.beat()
    progress.beat()
    *_, last = lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert "at work: 42 rollouts, 1 proposals, 50 tokens/s in 0 min 30 s" in last
    clock.now += 30.0
    progress.round_started("slow", 0)
    clock.now += 30.0
    progress.beat()
    assert "at work: 0 rollouts, 0 tokens/s in 0 min 30 s" in out.getvalue().splitlines()[-1]


def test_the_heart_beats_by_itself_until_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fst.runs.progress._BEAT_EVERY_S", 0.0)
    monkeypatch.setattr("fst.runs.progress._LOOK_EVERY_S", 0.001)
    printed = threading.Event()

    class Paper(io.StringIO):
        def write(self, text: str) -> int:
            if "at work" in text:
                printed.set()
            return super().write(text)

    with Progress(1, 1, "rl", "toy", console=Console(file=Paper(), width=100)):
        assert printed.wait(60.0)
    for thread in threading.enumerate():
        if thread.name == "fst-heartbeat":
            thread.join(60.0)
            assert not thread.is_alive()


def test_quiet_prints_nothing() -> None:
    for terminal in (False, True):
        progress, clock, out = make(terminal=terminal, quiet=True)
        with progress:
            progress.round_started("slow", 0)
            progress.step(1, 0.5)
            progress.evaluated(1, "50.0%", 0.0, "p")
            progress.say("p")
            clock.now += 31.0
            progress.beat()
        assert out.getvalue() == ""


@pytest.mark.parametrize("arm", ["fst", "gepa"])
def test_the_panel_shows_where_the_run_is(arm: Arm) -> None:
    progress, _, out = make(arm, terminal=True)
    with progress:
        progress.round_started("fast", 1)
        progress.fast(40, 80, 0.75)
        progress.step(7, 0.5)
        progress.evaluated(7, "62.5%", 0.0123, "Sort [bold]first.")
        progress.say("[bold]three answers")
    last = out.getvalue()
    for text in (
        f"{arm} on lab/[red]x",
        "│ round       fast round, cycle 2 of 2",
        "40 of 80 rollouts, best score 0.750",
        "7 of 12, reward 0.500",
        "62.5% at step 7, KL 0.0123",
        "Sort [bold]first.",
        "[bold]three answers\n╭─",
        "0 rollouts, 0 tokens/s in 0 min 00 s",
        "time left",
    ):
        assert text in last
    progress.close()


def test_the_panel_closes_when_the_run_fails() -> None:
    progress, _, out = make(terminal=True)
    progress.round_started("slow", 0)
    with pytest.raises(RuntimeError, match="the machine"), progress:
        raise RuntimeError("the machine")
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back
