"""Problems of an environment for the library `verifiers` of Prime Intellect: `verifiers:ID[?option=value]`, ID being an
installed package of the Environments Hub or your own, and the options those of its taskset (`&num_tasks=500`).

Tasks of one turn are taken: a question (below the task's own system prompt) and one answer, scored by the task's own
rewards. The reward is their weighted sum over the sum of the positive weights, from 0 to 1; the parts and the metrics
are the feedback. The library pins other versions than this project, so it runs in an interpreter of its own, in a child
(environment_child.py) that both drawing and scoring ask: the one that the variable FST_VERIFIERS_PYTHON names, else
`.venv-verifiers/bin/python` in the working directory (`make verifiers`), else this one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import math
import os
import select
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from fst.data.dealing import take
from fst.data.scoring import CORRECT, feedback_text, one_line
from fst.data.types import Problem, Score, Splits, SplitSizes, Verifier
from fst.errors import DataError, MissingDependency, UnknownDomain, VerifierError

NAME = "verifiers"  # of the family and of the verifier
PYTHON = "FST_VERIFIERS_PYTHON"
PATIENCE_SECONDS = 300.0  # for one answer of the child, its start included
ANY_ANSWER = "what the environment's rewards ask for"
_CHILD = Path(__file__).with_name("environment_child.py")
_SPARE = 4  # tasks drawn of an infinite taskset, for each problem that is asked for


def load_environment(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """Load the tasks of an environment as problems, dealt by a hash. Repeated questions are taken once. `meta` has the
    task's data, which its rewards read.

    Raises UnknownDomain for an environment that is not installed, DataError for one that cannot be made or needs more
    than one turn, and MissingDependency if no interpreter has the library.
    """
    child = _child(spec.removeprefix(f"{NAME}:"))
    most = _SPARE * (sizes.train + sizes.validation + sizes.test)
    problems: dict[str, Problem] = {}
    for task in child.ask({"tasks": most})["tasks"]:
        text = task["question"]
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        answer = ANY_ANSWER if task["answer"] is None else task["answer"]
        problems.setdefault(text, Problem(name, spec, text, answer, {"data": task["data"]}))
    return take(spec, list(problems.values()), [None] * len(problems), sizes, seed)


def named_environment(spec: str) -> dict[str, Any]:
    """Return the verifier of a spec, as name and options."""
    return {"name": NAME, "environment": spec.removeprefix(f"{NAME}:")}


def rubric(environment: str = "", answer: str = "whole") -> Verifier:
    """Make the verifier that scores with the rewards of an environment's tasks, which read the response as it was
    sampled. Raises as `load_environment` does, and VerifierError for any other `answer` mode; the Verifier raises
    VerifierError if the library cannot score a response.
    """
    if answer not in ("whole", "auto"):
        raise VerifierError(f"{NAME}:{environment}: its rewards read the whole response; leave `#{answer}` out")
    child = _child(environment)

    def verify(problem: Problem, response: str) -> Score:
        try:
            found = child.ask({"data": problem.meta["data"], "response": response})
        except DataError as exc:
            raise VerifierError(f"problem {problem.id!r}: {exc}") from exc
        reward = weighted(found["rewards"])
        parts = [f"{name} {score:g} (weight {weight:g})" for name, (score, weight) in found["rewards"].items()]
        parts += [f"{name}: {value:g}" for name, value in found["metrics"].items()]
        differs = CORRECT if reward == 1.0 else f"reward {reward:g} of 1: {'; '.join(parts)}"
        return Score(reward, feedback_text(problem, response, one_line(differs)), response)

    return verify


def weighted(rewards: dict[str, list[float]]) -> float:
    """Combine parts, (score, weight) by name, into one reward: their weighted sum divided by the sum of the positive
    weights, which is the sum of a perfect answer. Clipped to [0, 1]; 0 if it is not a finite number."""
    full = sum(weight for _, weight in rewards.values() if weight > 0)
    total = sum(score * weight for score, weight in rewards.values())
    return min(max(total / full, 0.0), 1.0) if full and math.isfinite(total) else 0.0


class Child:
    """An environment in a separate process, which ends with this one. Requests are sent one at a time."""

    def __init__(self, environment: str, options: dict[str, Any]) -> None:
        self.environment = environment
        self._lock = threading.Lock()
        command = [interpreter(), "-P", str(_CHILD), environment, json.dumps(options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin  # asked for above, as the next
        assert self._process.stdout  # asked for above
        self._asks, self._answers = self._process.stdin, self._process.stdout
        _running.add(self)
        try:
            self._answer()
        except DataError:
            self.close()
            raise

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer. Raises DataError if there is none."""
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                self._asks.write(line)
                self._asks.flush()
            except (OSError, ValueError) as exc:
                raise self._ended() from exc
            return self._answer()

    def close(self) -> None:
        """End the process."""
        _running.discard(self)
        self._process.kill()
        self._process.wait()
        for pipe in (self._asks, self._answers):
            with contextlib.suppress(OSError):  # a request that it did not take
                pipe.close()

    def _answer(self) -> dict[str, Any]:
        ready, _, _ = select.select([self._answers], [], [], PATIENCE_SECONDS)
        line = self._answers.readline() if ready else b""
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = UnknownDomain if answer.get("unknown") else DataError
            raise kind(f"{NAME}:{self.environment}: {answer['error']}")
        return answer

    def _ended(self) -> DataError:
        self.close()
        _child.cache_clear()  # the next one to ask starts another
        return DataError(
            f"{NAME}:{self.environment}: its process ended, or gave no answer within {PATIENCE_SECONDS:g} s; what it "
            f"wrote stands above (interpreter: {interpreter()})"
        )


_running: set[Child] = set()


@atexit.register
def _close_all() -> None:
    for child in list(_running):
        child.close()


@functools.lru_cache(maxsize=8)
def _child(environment: str) -> Child:
    name, _, query = environment.partition("?")
    if not name:
        raise UnknownDomain(f"{NAME}: names no environment; write {NAME}:ID, ID being an installed one")
    return Child(name, {key: _value(text) for key, text in parse_qsl(query, keep_blank_values=True)})


def _value(text: str) -> Any:
    """Parse an option as JSON, or return the text if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def interpreter() -> str:
    """Find the Python interpreter that has the library. Raises MissingDependency if there is none."""
    named, made = os.environ.get(PYTHON), Path(".venv-verifiers/bin/python")
    if named or made.exists():
        return str(Path(named or made).absolute())
    if find_spec("verifiers") is None:
        raise MissingDependency(
            "a domain verifiers:ID needs the library verifiers in an environment of its own: `make verifiers`, or set "
            f"{PYTHON} to the Python of one that has it"
        )
    return sys.executable
