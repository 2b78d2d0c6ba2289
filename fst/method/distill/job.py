"""Distillation of a run's evolved prompt into its weights: the job that does it, and its measured result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fst.config import overridden, params_from_dict, params_from_record
from fst.errors import RecordError
from fst.files import document, write_atomic
from fst.method.distill.weights import DistilledWeights
from fst.method.evaluation import mean_at
from fst.method.learner import Learner
from fst.method.run.checkpoint import take
from fst.method.run.runner import Job, reopened, summary_of
from fst.runs.records import RunFolder
from fst.runs.view import load_run
from fst.store.bundle import read_bundle, write_bundle
from fst.types import Prompt

RESULT = "distilled.json"
DOMAIN = "distilled"  # the run's domain in the bundle that is made of it


@dataclass(frozen=True)
class Figures:
    """A policy's figures on the test split under a prompt: mean@n with its standard error, tokens read and written per
    answer, and KL from the teacher in nats per token (0 for the teacher)."""

    accuracy: float
    stderr: float
    tokens: float
    kl: float = 0.0


@dataclass(frozen=True)
class Distilled:
    """The result of a distillation on `problems` test problems: figures of the `teacher` under its `prompt`, and of the
    weights under the seed prompt before and after."""

    prompt: str
    problems: int
    teacher: Figures
    before: Figures
    after: Figures

    @property
    def kept(self) -> float | None:
        """Share of the teacher's accuracy that the distilled weights keep; None if the teacher's is 0."""
        return self.after.accuracy / self.teacher.accuracy if self.teacher.accuracy else None

    def lines(self) -> list[str]:
        """Format the result for the terminal."""
        rows = {"evolved prompt": self.teacher, "seed prompt, before": self.before, "seed prompt, after": self.after}
        shown = [
            f"{name:<20} {100 * one.accuracy:5.1f}% (± {100 * one.stderr:.1f}), {one.tokens:.1f} tokens an answer"
            + (f", KL {one.kl:.4f} nats a token" if one is not self.teacher else "")
            for name, one in rows.items()
        ]
        kept = "not defined" if self.kept is None else f"{self.kept:.2f} of the evolved prompt's accuracy"
        return [*shown, f"kept {kept}; {self.teacher.tokens - self.after.tokens:.1f} tokens an answer saved"]


def job_of(run: Path, folder: Path, overrides: Sequence[str] = ()) -> Job:
    """Make the job that distils a finished run, recorded in `folder`. The bundle that it starts from is written beside
    `folder`, as `NAME.start`. Parameters are the run's, with `overrides` (KEY=VALUE). Raises RecordError for a run that
    has not ended."""
    view = load_run(run)
    last = RunFolder(run).last_checkpoint()
    if not view.end or not last:
        raise RecordError(f"{run} has not ended; go on with it by --resume, then distil it")
    places = view.config.get("places", {})
    start = folder.with_name(f"{folder.name}.start")
    if not (folder / "config.json").exists():
        state = json.loads((last[1] / "state.json").read_text(encoding="utf-8"))
        before = read_bundle(Path(places["start"])) if places.get("start") else None
        adapter = last[1] if view.arm != "gepa" else before.adapter if before else None
        prompts = {DOMAIN: {"prompts": state["population"]["prompts"], "ancestry": []}}
        facts = {"schema": 1, "base": {}, "start": None, "run": None, "metrics": {}, "candidate": None, "gate": None}
        domains = {DOMAIN: {"spec": view.domain}}
        write_bundle(start, {**facts, "domains": domains}, {"prompts.json": prompts, "evaluation.json": {}}, adapter)
    params = params_from_dict(overridden(params_from_record(view.config["params"]).as_dict(), overrides))
    problems = Path(places["problems"]) if places.get("problems") else None
    return Job("distill", view.domain, view.seed, folder, params, problems, start)


def distilled(folder: Path) -> Distilled:
    """Measure a finished distillation. The result is saved in the folder, beside the run's records, and read from there
    the next time. Raises RecordError for a run that has not ended."""
    kept = folder / RESULT
    if kept.exists():
        return _from_dict(json.loads(kept.read_text(encoding="utf-8")))
    if not summary_of(folder):
        raise RecordError(f"{folder} has not ended; go on with it by --resume")
    with reopened(folder) as (learner, last):
        assert isinstance(learner.slow, DistilledWeights)  # that is what the arm has
        prompt, seed = learner.slow.prompt, learner.population.best
        teacher, before = _figures(learner, prompt), _figures(learner, seed)
        take(learner, last)
        found = Distilled(prompt.text, len(learner.domain.test), teacher, before, _figures(learner, seed))
    write_atomic(kept, document(asdict(found)))
    return found


def _figures(learner: Learner, prompt: Prompt) -> Figures:
    """Measure the learner's weights under a prompt. KL is computed on the first answer to each problem."""
    assert isinstance(learner.slow, DistilledWeights)  # the arm's: runner.py made it
    problems, samples = learner.domain.test, learner.params.evaluate.samples
    rollouts = learner.roll("eval", [(prompt, problem) for problem in problems], samples)
    found, policy = mean_at(rollouts, samples), learner.policy
    kl = learner.slow.apart(prompt, problems, [rollout.tokens for rollout in rollouts[::samples]])
    read = sum(map(len, policy.encode([policy.messages(prompt.text, p.question) for p in problems])))
    written = sum(len(rollout.tokens) for rollout in rollouts) / len(rollouts)
    return Figures(found.accuracy, found.stderr, round(read / len(problems) + written, 3), kl)


def _from_dict(values: dict[str, Any]) -> Distilled:
    figures = {name: Figures(**values[name]) for name in ("teacher", "before", "after")}
    return Distilled(values["prompt"], values["problems"], **figures)
