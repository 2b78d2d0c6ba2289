"""A run's progress: a live panel where there is a terminal, plain lines elsewhere.

No run is silent for longer than half a minute, whatever it is doing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fst.types import Arm

_LINE_EVERY_S = 5.0
_BEAT_EVERY_S = 30.0
_LOOK_EVERY_S = 1.0


class Progress:
    """Shows what a run is doing: round, reward, KL, best prompt and time left.

    `total_steps` RL steps and `cycles` cycles are what the arm plans to do; cycles count from 0. Writes to stderr.
    Without a terminal, steps and fast rounds print a line at most every 5 seconds, evaluations always, and a heartbeat
    comes where nothing else was printed for 30 seconds. `drawn` says how many tokens have been sampled so far.
    """

    def __init__(
        self,
        total_steps: int,
        cycles: int,
        arm: Arm,
        domain: str,
        *,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps, self._cycles = total_steps, cycles
        self._arm, self._domain = arm, domain
        self._quiet, self._clock = quiet, clock
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._kind, self._cycle, self._step = "", 0, 0
        self._fast_share = 0.0
        self._began = clock()
        self._spent = {"fast": 0.0, "slow": 0.0}
        self._done = {"fast": 0.0, "slow": 0.0}
        self._last_line, self._last_word = float("-inf"), clock()
        self._shown: dict[str, str] = {}
        self.drawn: Callable[[], int] = lambda: 0
        self._rollouts, self._proposals, self._drawn_before = 0, 0, 0
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if not (self._quiet or self._console.is_terminal):
            threading.Thread(target=self._keep_beating, name="fst-heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def round_started(self, kind: str, cycle: int) -> None:
        """A fast or slow round begins; `kind` is "fast" or "slow"."""
        self._close_round()
        self._kind, self._cycle, self._fast_share = kind, cycle, 0.0
        self._began = self._clock()
        self._rollouts, self._proposals, self._drawn_before = 0, 0, self.drawn()
        self._show("round", f"{kind} round, cycle {cycle + 1} of {self._cycles}", always=True)

    def step(self, step: int, reward: float, spent: str = "") -> None:
        """RL step `step` (counted from 1 over the run) is taken; `reward` is its mean reward, `spent` what it took."""
        self._step = step
        self._done["slow"] += 1
        self._show("step", f"{step} of {self._total_steps}, reward {reward:.3f}" + (f", {spent}" if spent else ""))

    def counted(self, rollouts: int) -> None:
        """So many answers have been scored."""
        self._rollouts += rollouts

    def fast(self, spent: int, budget: int, best_score: float) -> None:
        """A prompt was proposed. The fast round has used `spent` of its `budget` rollouts; `best_score` is its best
        mean reward."""
        self._proposals += 1
        self._fast_share = min(1.0, spent / budget) if budget else 0.0
        self._show("fast", f"{spent:,} of {budget:,} rollouts, best score {best_score:.3f}")

    def evaluated(self, step: int, mean: str, kl: float, prompt_text: str) -> None:
        """An evaluation is done: mean@n as text, KL in nats per token, and the prompt it was taken with."""
        gist = " ".join("".join(c if c.isprintable() else " " for c in prompt_text).split())
        self._shown["prompt"] = gist if len(gist) <= 160 else gist[:159] + "…"
        self._show("validation", f"{mean} at step {step}, KL {kl:.4f}", always=True)

    def say(self, text: str) -> None:
        """Lines that stay, above the panel where there is one."""
        if not self._quiet:
            self._last_word = self._clock()
            self._console.print(Text(text), soft_wrap=True)

    def beat(self) -> None:
        """Print what has been done in the round under way, if nothing was printed for half a minute."""
        if self._quiet or self._console.is_terminal or self._clock() - self._last_word < _BEAT_EVERY_S:
            return
        self._line("at work", self._work())

    def _work(self) -> str:
        seconds = max(0.0, self._clock() - self._began)
        rate = (self.drawn() - self._drawn_before) / seconds if seconds else 0.0
        proposals = f"{self._proposals} proposals, " if self._kind == "fast" else ""
        return f"{self._rollouts:,} rollouts, {proposals}{rate:,.0f} tokens/s in {_duration(seconds)}"

    def _keep_beating(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            self.beat()

    def time_left(self) -> float | None:
        """Seconds left, from the pace of this process's fast rounds and RL steps; None until each kind of
        work that remains has been seen once."""
        elapsed = max(0.0, self._clock() - self._began)
        spent, done, ahead = dict(self._spent), dict(self._done), self._ahead()
        if self._kind:
            spent[self._kind] += elapsed
        if self._kind == "fast":
            done["fast"] += self._fast_share
        total = 0.0
        for kind, amount in ahead.items():
            if amount > 0 and not done[kind]:
                return None
            total += amount * spent[kind] / done[kind] if amount > 0 else 0.0
        return total

    def close(self) -> None:
        """Stop updating; the last state stays on the screen. A second call does nothing."""
        self._closed.set()
        self._close_round()
        self._kind = ""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _ahead(self) -> dict[str, float]:
        """Fast rounds and RL steps that remain, the running fast round in parts."""
        fast_rounds = self._cycles - self._cycle - (self._fast_share if self._kind == "fast" else 1.0)
        return {
            "fast": max(0.0, fast_rounds) if self._arm not in ("rl", "distill") else 0.0,
            "slow": float(max(0, self._total_steps - self._step)) if self._arm != "gepa" else 0.0,
        }

    def _close_round(self) -> None:
        if self._kind:
            self._spent[self._kind] += max(0.0, self._clock() - self._began)
        if self._kind == "fast":
            self._done["fast"] += 1
        self._began = self._clock()

    def _show(self, key: str, text: str, *, always: bool = False) -> None:
        self._shown[key] = text
        if self._quiet:
            return
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, get_renderable=self._panel, refresh_per_second=2)
                self._live.start()
            return
        now = self._clock()
        if not always and now - self._last_line < _LINE_EVERY_S:
            return
        if not always:
            self._last_line = now
        self._line(key, text)

    def _line(self, key: str, text: str) -> None:
        self._last_word = self._clock()
        parts = [f"[{self._arm}] {self._domain}", f"{key}: {text}", f"left: {_duration(self.time_left())}"]
        if key == "validation":
            parts.insert(2, f"prompt: {self._shown['prompt']}")
        self._console.print(Text(" | ".join(parts)), soft_wrap=True)

    def _panel(self) -> Panel:
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(overflow="fold")
        for key in ("round", "fast", "step", "validation", "prompt"):
            if key in self._shown:
                rows.add_row(key, Text(self._shown[key]))
        rows.add_row("at work", self._work())
        rows.add_row("time left", _duration(self.time_left()))
        body = Table.grid(expand=True)  # without colours the bar does not end its line; a table's row does
        body.add_row(self._bar())
        body.add_row(rows)
        return Panel(body, title=Text(f"{self._arm} on {self._domain}"), title_align="left")

    def _bar(self) -> ProgressBar:
        if self._arm == "gepa" or not self._total_steps:
            return ProgressBar(total=max(1, self._cycles), completed=self._cycle + self._fast_share)
        return ProgressBar(total=self._total_steps, completed=self._step)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known yet"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
