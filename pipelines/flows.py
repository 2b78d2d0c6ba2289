"""The flows: when and where the stages of dvc.yaml run, and what happens after them.

    prepare -> train -> evaluate -> release, for one domain each; `continual` is all of it for a list of domains.

DVC decides whether a stage runs: a flow skips a stage that DVC calls current, and has DVC record what it made, so that
a following `dvc repro` finds nothing to do. Child processes (pipelines/worker.py) do the work, by the functions
behind `fst stage` (pipelines/work.py). Retries are for infrastructure: a child that died, a store or an endpoint that
did not answer. Tasks return paths and hashes; Prefect stores and caches no results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed

from fst.errors import GateRefused, ReflectorError, StoreError
from pipelines import artifacts, work
from pipelines.crashed import mark_the_killed
from pipelines.graph import GraphBusy
from pipelines.project import Project
from pipelines.worker import Worker, WorkerDied

INFRASTRUCTURE = (WorkerDied, StoreError, ReflectorError, GraphBusy, ConnectionError, TimeoutError)
REFUSED = "Refused"  # the state of a run whose candidate did not pass the gate
LIMIT = "fst-device"  # one model at work at a time: on a machine's GPU, or on its cores

T = TypeVar("T")
Stage = Callable[[Project, str], Path]


def is_infrastructure(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failure is worth another attempt: the machine's fault, not that of data, parameters or gate."""
    try:
        state.result()
    except INFRASTRUCTURE:
        return True
    except Exception:
        return False
    return False


fst_task: Any = functools.partial(
    task,
    retry_jitter_factor=0.5,
    retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE,
    persist_result=False,
)
fst_flow: Any = functools.partial(flow, persist_result=False, validate_parameters=True)

_data_worker, _model_worker = Worker(), Worker()
_WITHOUT_MODEL = (work.load_data, work.plan_adaptation, work.prepare, work.validate)


def patiently(one: Any, project: Project) -> Any:
    """A task with the project's retries. Each wait is twice as long as the one before."""
    patience = project.params.flows
    delays = [patience.retry_seconds * 2**attempt for attempt in range(patience.retries)]
    return one.with_options(retries=patience.retries, retry_delay_seconds=delays or None)


@fst_task(name="stage", task_run_name="{stage.__name__} {name}")
def run_stage(project: Project, stage: Stage, name: str) -> dict[str, Any] | State[Any]:
    """Run a stage of dvc.yaml, unless DVC calls it current. DVC does not know the stages of an adaptation: they always
    run."""
    graph, target = project.graph, "base" if stage is work.base else f"{stage.__name__}@{name}"
    if graph and graph.is_current(target):
        found = {"stage": target, "skipped": True, "outputs": graph.outputs(target)}
        return Completed(message=f"{target} is current: skipped", data=found)
    made = call(stage, project, name)
    return {"stage": target, "skipped": False, "path": str(made), "outputs": graph.record(target) if graph else {}}


@fst_task(name="round", task_run_name="{name}: round {number}")
def train_round(project: Project, name: str, number: int) -> dict[str, Any] | State[Any]:
    """A fast or a slow round. A retry goes on from the last round that was completed."""
    limits = project.params.of_domain(name).flow_limits
    done = _model_worker.call(work.next_round, project, name, timeout_seconds=limits.round_seconds)
    if done["round"] is None:
        return Completed(message="no round was left to do", data=done)
    says = f"{done['channel']} round {done['round']}: reward {done['reward']:.3f}"
    if done["accuracy"] is not None:
        says += f", accuracy {done['accuracy']:.3f}, KL {done['kl']:.4f}"
    get_run_logger().info("%s: %s", name, says)
    return Completed(message=says, data=done)


@fst_task(name="finish training", task_run_name="{name}: test and export")
def finish_training(project: Project, name: str) -> dict[str, Any]:
    """The final evaluation, the log of rollouts validated, the stage's outputs recorded."""
    made = call(work.finish_training, project, name)
    outputs = project.graph.record(f"train@{name}") if project.graph else {}
    artifacts.curve_image(name, Path(made["run"]))
    return {**made, "outputs": outputs}


@fst_task(name="gate", task_run_name="{name}: gate")
def judge(project: Project, name: str) -> dict[str, Any] | State[Any]:
    """The candidate against production."""
    found = call(work.judge, project, name)
    if found["released"] is None:
        artifacts.gate_decision(name, Path(found["path"]))
    return Completed(message=f"verdict: {found['verdict']}", data=found)


@fst_task(name="publish", task_run_name="{name}: publish")
def publish(project: Project, name: str) -> dict[str, Any]:
    """The bundle into the store, then the channel onto it."""
    return call(work.publish, project, name)


@fst_flow(name="prepare", flow_run_name="prepare {name}")
def prepare(name: str, root: str = ".") -> None:
    """A domain's problems, prepared and validated by the data suites."""
    with working(root, name) as project:
        for stage in (work.base, work.prepare, work.validate):
            patiently(run_stage, project)(project, stage, name)
        artifacts.validation_table(name, project.places.validated(name) / "validation.json")


@fst_flow(name="train", flow_run_name="train {name}")
def train(name: str, root: str = ".") -> dict[str, Any]:
    """Fast and slow rounds in alternation, one task per round, from the last completed round to the end."""
    with working(root, name) as project:
        if project.graph and project.graph.is_current(f"train@{name}"):
            get_run_logger().info("train@%s is current: skipped", name)
            return {"skipped": True}
        get_ready(work.load)
        with device():
            return {"skipped": False, **train_rounds(project, name)}


def train_rounds(project: Project, name: str) -> dict[str, Any]:
    """Every round that is left, one task per round, and the end of the training."""
    rounds: list[dict[str, Any]] = []
    more = True
    while more:
        done = figures(patiently(train_round, project)(project, name, rounds[-1]["round"] + 1 if rounds else 0))
        more = done["more"]
        if done["round"] is not None:
            rounds.append(done)
    made = patiently(finish_training, project)(project, name)
    artifacts.rounds_table(name, rounds)
    return dict(made)


@fst_flow(name="evaluate", flow_run_name="evaluate {name}")
def evaluate(name: str, root: str = ".") -> None:
    """The trained policy measured on held-out problems of every domain that it serves, and the bundle."""
    with working(root, name) as project:
        with device():
            for stage in (work.evaluate, work.bundle):
                patiently(run_stage, project)(project, stage, name)
        artifacts.metrics_table(name, project.places.metrics(name))


@fst_flow(name="release", flow_run_name="release {name}")
def release(name: str, root: str = ".") -> dict[str, Any] | State[Any]:
    """The gate, then the store. A refusal ends the flow in the failed state `Refused`, with the reasons as its message,
    and leaves production as it is."""
    with working(root, name) as project:
        with device():
            found = figures(patiently(judge, project)(project, name))
        if found["released"]:
            get_run_logger().info("%s was released on %s before", found["released"][:12], found["channel"])
            return {"bundle": found["released"], "new": False}
        if found["verdict"] == "refuse":
            return Failed(name=REFUSED, message=f"{name}: " + "; ".join(found["reasons"]))
        return {**patiently(publish, project)(project, name), "new": True}


@fst_flow(name="continual", flow_run_name="continual")
def continual(domains: list[str] | None = None, root: str = ".") -> list[dict[str, Any]] | State[Any]:
    """Domains arriving one after another, each trained on top of what it builds on, judged and released. Where the gate
    refuses one, the others are done all the same, and the flow ends in the failed state `Refused`."""
    with working(root, *domains or ()) as project:
        released, refused = [], []
        for name in domains or list(project.params.domains):
            prepare(name, root)
            train(name, root)
            evaluate(name, root)
            state = release(name, root, return_state=True)
            if state.name == REFUSED:
                refused.append(state.message)
            else:
                released.append({"domain": name, **state.result()})
        return Failed(name=REFUSED, message="\n".join(refused)) if refused else released


def outcome(state: State[Any]) -> Any:
    """What a flow returned. Raises GateRefused for the state `Refused`, and what the flow raised."""
    if state.name == REFUSED and state.is_failed():
        raise GateRefused(f"the gate refused, and production stays as it is:\n{state.message}")
    return state.result()


def figures(returned: Any) -> dict[str, Any]:
    """What a task returned. A task that puts a message into its state returns the state."""
    return dict(returned.result() if isinstance(returned, State) else returned)


def device() -> Any:
    """Hold the machine's GPU or cores while the block runs; others wait."""
    return concurrency(LIMIT, occupy=1, strict=True, lease_duration=60)


def ensure_limit(name: str) -> None:
    """Make a concurrency limit of 1 where the server has none of that name. A limit that exists stays as it was set."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            client.upsert_global_concurrency_limit_by_name(name, 1)


def call(function: Callable[..., T], project: Project, *arguments: Any) -> T:
    """Call a function of pipelines/work.py in its child process."""
    limit = project.params.flow_limits.stage_seconds
    return _worker_of(function).call(function, project, *arguments, timeout_seconds=limit)


def get_ready(*loads: Callable[[], None]) -> None:
    """Have the children import what these functions of pipelines/work.py import, which takes seconds, while the flow
    goes on."""
    for load in loads:
        _worker_of(load).start(load)


def _worker_of(function: Callable[..., Any]) -> Worker:
    """Data and models have a child each, so that neither waits for the other's imports."""
    return _data_worker if function in _WITHOUT_MODEL else _model_worker


_depth = 0


@contextmanager
def working(root: str, *names: str) -> Iterator[Project]:
    """Yield the project, and keep the workers while the outermost flow runs. Raises ConfigError for a name that is no
    domain of params.yaml."""
    global _depth
    project = Project(root)
    for name in names:
        project.params.domain(name)
    if _depth == 0:
        ensure_limit(LIMIT)
        mark_the_killed()
    _depth += 1
    try:
        yield project
    except BaseException:
        if _depth == 1:
            _close_workers(at_once=True)
        raise
    finally:
        _depth -= 1
        if _depth == 0:
            _close_workers()


def _close_workers(at_once: bool = False) -> None:
    for worker in (_data_worker, _model_worker):
        worker.close(at_once)
