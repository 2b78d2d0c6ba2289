"""The last lines of a training: what it changed on the same test problems, what went wrong, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from fst.errors import NothingLearned
from fst.report.wording import ACCURACY, mean_at, quantity
from fst.runs.view import RunView


def closing(view: RunView) -> list[str]:
    """The lines, for a run that has ended."""
    end, what = view.end or {}, quantity([view])
    before = (view.cells or {}).get("base/seed")

    def shown(value: float) -> str:
        return f"{100 * value:.1f}%" if what == ACCURACY else f"{value:.3f}"

    change = f"{shown(before)} -> " if before is not None else ""
    measured = f"{mean_at([view])} on {view.problems} test problems" if view.problems else mean_at([view])
    spent = view.result.rollouts
    reused = sum(step.get("reused", 0) for step in view.steps)
    twice = f" ({reused:,} of the fast ones used again in training)" if reused else ""
    lines = [
        f"{view.arm} on {view.domain}: test {what} {change}{shown(end['accuracy'])} "
        f"(± {shown(end['stderr']).removesuffix('%')}, {measured}), KL {end['kl']:.4f} nats per token",
        f"rollouts {spent['train']:,} training, {spent['fast']:,} fast, {spent['eval']:,} evaluation{twice}; "
        f"{end['seconds']:,.0f} s of learning",
        f"best prompt: {end['prompts'][0]!r}",
        f"records: {view.path}",
    ]
    for trouble, rounds in view.outcome.troubles:
        lines += [f"in {rounds} round{'s' if rounds > 1 else ''}: {trouble.says}", *trouble.samples]
    if not view.outcome.failed:
        lines.append(f"next: `fst report {view.path}` for curves and prompts; {_next(view)}")
    return lines


def require_learning(views: Sequence[RunView]) -> None:
    """Raise NothingLearned where no run learned anything and something was wrong in each."""
    if all(view.outcome.failed for view in views):
        causes = dict.fromkeys(sentence for view in views for sentence in view.outcome.sentences())
        raise NothingLearned(f"nothing was learned: {'; '.join(causes)}")


def _next(view: RunView) -> str:
    """What a user would do with the run as it stands."""
    if not view.outcome.learned:
        return "nothing beat what the run began with: give it more cycles (loop.cycles), or harder problems"
    return f"to release and serve it, name the domain in params.yaml (`spec: {view.domain}`) and run `dvc repro`"
