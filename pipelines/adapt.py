"""What an alert starts: a fast update of one served domain from its traffic, judged and released like everything else.

    collect -> fast rounds under frozen weights -> gate -> release          minutes
            -> slow rounds with the evolved prompts -> gate -> release      only where the reward is not enough yet

Adaptations of one domain never run side by side: the later one waits, and ends at once when the domain was released
after its alert was raised.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Completed

from fst.errors import DataError
from fst.lines import append_line, read_lines
from fst.release.adaptation import Adaptation
from pipelines import artifacts, work
from pipelines.flows import (
    call,
    device,
    ensure_limit,
    figures,
    fst_flow,
    fst_task,
    get_ready,
    judge,
    patiently,
    publish,
    run_stage,
    train_rounds,
    working,
)
from pipelines.project import Project

POLL_SECONDS = 1.0


@fst_flow(name="adapt", flow_run_name="adapt {domain} on {channel}")
def adapt(domain: str, channel: str, at: float | None = None, since: float = 0.0, root: str = ".") -> State[Any]:
    """Bring a domain of a channel's release up to date, or add it. `at` is when the alert was raised (default: now),
    `since` when the traffic that it is about began, both in seconds since the epoch. Ends in the state `Released`,
    `Refused` or `Skipped`; returns the last line of its account."""
    at = time.time() if at is None else at
    with working(root) as project, _alone(domain, channel):
        account = Account(project, domain, channel, at)
        if account.is_late():
            get_run_logger().info("%s was adapted after this alert was raised: nothing to do", domain)
            return _ended(account.say("skipped"))
        account.say("started")
        get_ready(work.load_data, work.load)
        with account.says_how_it_failed(), device():
            adaptation = collect(project, domain, channel, since)
            left_out = {"left_out": list(adaptation.left_out)} if adaptation.left_out else {}
            account.say("collected", problems=adaptation.problems, stage=adaptation.fast, **left_out)
            ours = Project(root, adaptation)
            found = _make(ours, adaptation.fast, account, "fast")
            enough, slow_cycles = project.params.adapt.enough, project.params.adapt.slow_cycles
            if slow_cycles and (found["bundle"] is None or found["reward"] < enough):
                slow = _make(ours, adaptation.slow, account, "slow")
                found = slow if slow["bundle"] or not found["bundle"] else found
            last = account.say("released" if found["bundle"] else "refused", **found)
        patiently(version, project)(project, adaptation.data)  # now that nobody waits
        return _ended(last)


def collect(project: Project, domain: str, channel: str, since: float) -> Adaptation:
    """The problems of the adaptation, in a file of their own. Waits up to adapt.wait_seconds for enough of them, then
    raises DataError."""
    until = time.monotonic() + project.params.adapt.wait_seconds
    while True:
        try:
            return Adaptation(**patiently(collect_problems, project)(project, domain, channel, since))
        except DataError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_SECONDS)


@fst_task(name="collect", task_run_name="{domain}: collect problems")
def collect_problems(project: Project, domain: str, channel: str, since: float) -> dict[str, Any]:
    """Scored requests as problems."""
    return call(work.plan_adaptation, project, domain, channel, since)


@fst_task(name="version", task_run_name="{data}: dvc add")
def version(project: Project, data: str) -> None:
    """The problems into DVC's cache."""
    if project.graph:
        project.graph.add(Path(data))


def _make(project: Project, name: str, account: Account, how: str) -> dict[str, Any]:
    """One candidate: trained, measured, judged, and released if it passes the gate."""
    for stage in (work.prepare, work.validate):
        patiently(run_stage, project)(project, stage, name)
    artifacts.validation_table(name, project.places.validated(name) / "validation.json")
    train_rounds(project, name)
    account.say(how, stage=name)
    for stage in (work.evaluate, work.bundle):
        patiently(run_stage, project)(project, stage, name)
    reward = call(work.reward, project, name)
    verdict = figures(patiently(judge, project)(project, name))
    account.say("judged", stage=name, verdict=verdict["verdict"], reasons=verdict["reasons"], reward=reward)
    bundle = verdict["released"]
    if bundle is None and verdict["verdict"] == "release":
        bundle = patiently(publish, project)(project, name)["bundle"]
    if bundle is not None:
        account.say("published", stage=name, bundle=bundle)
    return {"stage": name, "reward": reward, "bundle": bundle}


def _ended(line: dict[str, Any]) -> State[Any]:
    """A refusal is an answer to an alert, not a failure."""
    return Completed(name=line["event"].capitalize(), message=f"{line['domain']}: {line['event']}", data=line)


class Account:
    """What came of an alert: lines of reports/monitoring/adaptations.jsonl, one per step, with {"at", "alert",
    "domain", "channel", "event"} and what the step found. The events are started and collected; fast, judged and, if
    the gate passes, published; the same with slow; the last one is released, refused, skipped or failed."""

    def __init__(self, project: Project, domain: str, channel: str, alert: float) -> None:
        self._file = project.places.monitoring / "adaptations.jsonl"
        self._head = {"alert": alert, "domain": domain, "channel": channel}

    def say(self, event: str, **facts: Any) -> dict[str, Any]:
        line = {"at": time.time(), **self._head, "event": event, **facts}
        append_line(self._file, line)
        return line

    def is_late(self) -> bool:
        """Whether the domain was released after the alert was raised."""
        mine = [line for line in read_lines(self._file) if all(line[k] == self._head[k] for k in ("domain", "channel"))]
        return any(line["event"] in ("published", "released") and line["at"] > self._head["alert"] for line in mine)

    @contextmanager
    def says_how_it_failed(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.say("failed", error=f"{type(error).__name__}: {error}")
            raise


@contextmanager
def _alone(domain: str, channel: str) -> Iterator[None]:
    """Keep other adaptations of the domain waiting while the block runs."""
    limit = f"fst-adapt-{channel}-{domain}"
    ensure_limit(limit)
    with concurrency(limit, occupy=1, strict=True, lease_duration=60):
        yield
