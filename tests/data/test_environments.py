"""A domain of an environment for Prime Intellect's verifiers (fst/data/families/environments.py), which runs in an
interpreter of its own. A stand-in answers the parent's requests where the library need not be there; the tests with the
library itself are skipped where `make verifiers` was not run. The invariants:

v1  an environment's tasks are problems, dealt alike every time, with their own system prompt in the question
v2  its rewards score, weighted, and their parts and the metrics are the feedback
v3  prepared problems score as the domain's own do
v4  what an environment cannot be is told apart: not installed, wrong options, more than one turn
v5  a child that died is an error, and the next one to ask has another
v6  without the library, the error says how to get it; without a finite number of tasks, enough are drawn
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fst.data.domains import answer_mode, load_domain
from fst.data.families import environments
from fst.data.families.environments import PYTHON, interpreter, weighted
from fst.data.prepared import load_prepared, write_prepared
from fst.data.scoring import remark
from fst.data.types import SplitSizes
from fst.errors import DataError, FstError, MissingDependency, UnknownDomain, VerifierError
from support.imports import ROOT

MADE = os.environ.get(PYTHON) or str(ROOT / ".venv-verifiers" / "bin" / "python")
SIZES = SplitSizes(4, 4, 4)
SUMS = "verifiers:fst-sums"

STAND_IN = """
import json, sys
print(json.dumps({"ready": "0"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "tasks" in asked:
        tasks = [{"question": f"{n} + {n}?", "answer": str(2 * n), "data": {"n": n}} for n in range(asked["tasks"])]
        answer = {"tasks": tasks}
    elif asked["response"] == "die":
        sys.exit(1)
    elif asked["response"] == "raise":
        answer = {"error": "RuntimeError: no idea"}
    else:
        right = float(asked["response"] == str(2 * asked["data"]["n"]))
        brief = float(len(asked["response"]) < 4) or 0.5
        answer = {"rewards": {"value": [right, 0.8], "brevity": [brief, 0.2]}, "metrics": {"words": 3.0}}
    print(json.dumps(answer), flush=True)
"""

needs_library = pytest.mark.skipif(not Path(MADE).exists(), reason="no .venv-verifiers; `make verifiers` makes it")


@pytest.fixture(scope="module")
def library() -> Iterator[None]:
    """An interpreter with verifiers, and the environment fst-sums installed there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PYTHON, MADE)
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "support" / "environments"))
        yield
        close_all()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[None]:
    """An interpreter that answers as environment_child.py says that it does."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{STAND_IN}", encoding="utf-8")
    python.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PYTHON, str(python))
        yield
        close_all()


def close_all() -> None:
    for child in list(environments._running):
        child.close()
    environments._child.cache_clear()


@pytest.mark.slow
@needs_library
@pytest.mark.usefixtures("library")
def test_v1_tasks_are_problems() -> None:
    domain, again = load_domain(SUMS, SIZES, 0), load_domain(SUMS, SIZES, 0)
    assert domain.problems == again.problems
    assert {p.question for p in domain.problems} == {f"Be short.\n\n{n} + {n}?" for n in range(12)}
    assert {p.question.split()[2]: p.answer for p in domain.problems}["7"] == "14"
    assert answer_mode(SUMS) == "whole"
    other = load_domain(f"{SUMS}?num_tasks=20", SIZES, 0)
    assert {int(p.question.split()[2]) for p in other.problems} - set(range(12))


@pytest.mark.usefixtures("stand_in")
def test_v2_parts_are_the_feedback() -> None:
    domain = load_domain("verifiers:sums", SIZES, 0)
    problem = next(p for p in domain.problems if len(p.answer) == 2)
    assert remark(domain.verify(problem, problem.answer).feedback) == "nothing, correct"
    wrong = domain.verify(problem, "none")
    assert wrong.reward == pytest.approx(0.1)  # 0.8 * 0 + 0.2 * 0.5
    assert remark(wrong.feedback) == "reward 0.1 of 1: value 0 (weight 0.8); brevity 0.5 (weight 0.2); words: 3"
    assert wrong.feedback.splitlines()[:3] == [
        f"input: {problem.question}",
        "output: none",
        f"expected: {problem.answer}",
    ]
    with pytest.raises(VerifierError, match=f"problem '{problem.id}': verifiers:sums: RuntimeError: no idea"):
        domain.verify(problem, "raise")


@pytest.mark.slow
@needs_library
@pytest.mark.usefixtures("library")
def test_v2_the_rubric_scores() -> None:
    domain = load_domain(SUMS, SIZES, 0)
    problem = next(p for p in domain.problems if p.answer == "14")
    assert domain.verify(problem, "14").reward == 1.0
    assert remark(domain.verify(problem, "14").feedback) == "nothing, correct"
    long = domain.verify(problem, "It is 14.")
    assert long.reward == pytest.approx(0.9)  # 0.8 * 1 + 0.2 * 0.5
    assert remark(long.feedback) == "reward 0.9 of 1: brevity 0.5 (weight 0.2); value 1 (weight 0.8); words: 3"
    assert domain.verify(problem, "13").reward == pytest.approx(0.2)
    with pytest.raises(VerifierError, match=r"verifiers:fst-sums: .*no idea"):
        domain.verify(problem, "raise")


@pytest.mark.slow
@needs_library
@pytest.mark.usefixtures("library")
def test_v3_prepared_problems(tmp_path: Path) -> None:
    domain = load_domain(SUMS, SIZES, 0)
    write_prepared(domain, tmp_path / "sums", lambda texts: [len(text) for text in texts])
    prepared = load_prepared(tmp_path / "sums")
    assert prepared.problems == domain.problems
    assert [prepared.verify(p, p.answer).reward for p in prepared.test] == [1.0] * 4


@pytest.mark.slow
@needs_library
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("verifiers:no-such-environment", UnknownDomain, "taskset 'no-such-environment' not found"),
        ("verifiers:", UnknownDomain, "names no environment"),
        (f"{SUMS}#boxed", VerifierError, "its rewards read the whole response; leave `#boxed` out"),
        (f"{SUMS}?num_tsks=3", DataError, "num_tsks"),
        (f"{SUMS}?kind=dialogue", DataError, "a task's prompt is no single question"),
    ],
)
def test_v4_what_it_cannot_be(spec: str, error: type[FstError], words: str) -> None:
    with pytest.raises(error, match=words):
        load_domain(spec, SIZES, 0)


@pytest.mark.usefixtures("stand_in")
def test_v5_a_child_that_died() -> None:
    domain = load_domain("verifiers:sums", SIZES, 0)
    with pytest.raises(VerifierError, match="its process ended"):
        domain.verify(domain.train[0], "die")
    again = load_domain("verifiers:sums", SIZES, 0)
    assert again.verify(again.train[0], again.train[0].answer).reward == 1.0


def test_v6_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PYTHON, raising=False)
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(MissingDependency, match=r"`make verifiers`, or set FST_VERIFIERS_PYTHON"):
        interpreter()


@pytest.mark.slow
@needs_library
@pytest.mark.usefixtures("library")
def test_v6_an_endless_environment() -> None:
    domain = load_domain(f"{SUMS}?kind=endless", SplitSizes(6, 3, 3), 0)
    assert [len(domain.train), len(domain.validation), len(domain.test)] == [6, 3, 3]
    assert len({p.question for p in domain.problems}) == 12


@pytest.mark.parametrize(
    ("rewards", "value"),
    [
        ({"a": [1.0, 1.0], "b": [0.0, 1.0]}, 0.5),
        ({"a": [1.0, 1.0], "penalty": [1.0, -0.25]}, 0.75),
        ({"a": [0.0, 1.0], "penalty": [1.0, -0.25]}, 0.0),
        ({"a": [float("nan"), 1.0]}, 0.0),
        ({"a": [3.0, 1.0]}, 1.0),
        ({"a": [1.0, 0.0]}, 0.0),
    ],
)
def test_v2_the_weighted_sum(rewards: dict[str, list[float]], value: float) -> None:
    assert weighted(rewards) == value
