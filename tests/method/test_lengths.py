"""Questions that are too long for the model. N1 one is left out when it leaves less than the longest prompt and answer
need, and at that length it stays; N2 the engine's limit counts, not the model's; N3 one warning names how many, the
longest and the limit, and the run's events hold them; N4 a split that would be empty is an error that says what to
change; N5 what is measured leaves them out too; N6 a run goes on with the same problems."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fst.config import Params, params_from_dict
from fst.data.types import Domain, Problem
from fst.errors import DataError
from fst.method.lengths import LeftOut, fitting, readable
from fst.method.run.runner import Job, plan_of, problems_of, run_rounds
from fst.models.engines.in_process import TransformersEngine
from fst.models.policy import Policy
from fst.runs.records import rollouts_of
from fst.stages.measure import Served
from fst.types import Prompt
from support.slow_toys import verify

SHORT = Problem("short", "toy", "digits: 1 2", "2 1")
PARAMS = params_from_dict({"model": {"max_new_tokens": 8}, "evaluate": {"samples": 1}})


def length(policy: Policy, problem: Problem) -> int:
    return len(policy.encode([policy.messages("", problem.question)])[0])


def of_length(policy: Policy, tokens: int, name: str) -> Problem:
    """A problem whose question has this many tokens, chat template included."""
    digits = tokens - length(policy, dataclasses.replace(SHORT, question="digits:"))
    found = dataclasses.replace(SHORT, id=name, question="digits:" + " 7" * digits)
    assert length(policy, found) == tokens
    return found


TURN = 1  # a token that the template sets around a prompt


class Narrow(TransformersEngine):
    """Reads 100 tokens at once, as a server may that was started so."""

    context = 100


@pytest.fixture
def room(policy: Policy) -> int:
    assert policy.context == 512
    return 512 - PARAMS.fast.max_prompt_tokens - 8 - TURN


def test_n1_a_question_may_be_as_long_as_what_is_left(policy: Policy, room: int) -> None:
    longest, longer = of_length(policy, room, "longest"), of_length(policy, room + 1, "longer")
    assert readable(policy, [SHORT, longer, longest], PARAMS) == (SHORT, longest)


def test_n2_a_server_that_reads_less_decides(policy: Policy) -> None:
    policy.engine = Narrow(policy)
    longest, longer = (
        of_length(policy, 100 - 64 - 8 - TURN, "longest"),
        of_length(policy, 100 - 64 - 7 - TURN, "longer"),
    )
    assert readable(policy, [longest, longer], PARAMS) == (longest,)


def test_n3_one_warning_tells_of_all(policy: Policy, room: int, caplog: pytest.LogCaptureFixture) -> None:
    long, longer = of_length(policy, room + 1, "long"), of_length(policy, room + 9, "longer")
    domain = Domain("toy", (SHORT, long, longer), (SHORT,), (long, SHORT), verify)
    with caplog.at_level(logging.WARNING, "fst"):
        found, left = fitting(policy, domain, PARAMS)
    assert (found.train, found.validation, found.test) == ((SHORT,), (SHORT,), (SHORT,))
    assert left == LeftOut({"train": 2, "validation": 0, "test": 1}, room + 9, room)
    (told,) = caplog.messages
    assert told.startswith(
        f"toy: 2 train problems, 1 test problems are left out: questions have up to {room + 9} tokens"
    )
    assert f"{room} fit beside" in told


def test_n3_nothing_is_said_where_all_fit(policy: Policy, caplog: pytest.LogCaptureFixture) -> None:
    domain = Domain("toy", (SHORT,), (SHORT,), (SHORT,), verify)
    assert fitting(policy, domain, PARAMS) == (domain, None)
    assert caplog.messages == []


def test_n4_an_empty_split_is_an_error(policy: Policy, room: int) -> None:
    domain = Domain("toy", (SHORT,), (of_length(policy, room + 1, "long"),), (SHORT,), verify)
    with pytest.raises(
        DataError, match=rf"shortest question has {room + 1} tokens, and {room} of the 512 .* Lower those"
    ):
        fitting(policy, domain, PARAMS)


def test_n5_measuring_leaves_them_out(policy: Policy, room: int) -> None:
    long = of_length(policy, room + 1, "long")
    domain = Domain("lab/reverse", (SHORT,), (SHORT, long), (long, SHORT), verify)
    served = Served(policy, PARAMS, None)
    assert set(served.measure(domain, Prompt("turn it around")).problems) == {"short"}
    assert [row["question"] for row in served.traffic(domain, Prompt("turn it around"))] == [SHORT.question]


@pytest.fixture
def job(tmp_path: Path, tiny_model_dir: Path, new_policy: Callable[[], Policy]) -> Job:
    """A run of the prompts alone on twelve problems, two of them too long."""
    policy = new_policy()
    problems = [dataclasses.replace(SHORT, id=f"p{i}", question=f"digits: {i} 2") for i in range(10)]
    problems += [of_length(policy, 500, "long-1"), of_length(policy, 501, "long-2")]
    with (tmp_path / "mine.jsonl").open("w") as file:
        for i, p in enumerate(problems):
            split = "train" if i >= 6 else "validation" if i >= 3 else "test"
            file.write(json.dumps({"id": p.id, "question": p.question, "answer": p.answer, "split": split}) + "\n")
    small: dict[str, Any] = {
        "prepare": {"train": 6, "validation": 3, "test": 3},
        "model": {"base": str(tiny_model_dir), "max_new_tokens": 8},
        "fast": {"prompts": 1, "anchors": 4, "minibatch": 2, "budget": 12, "patience": 1},
        "reflector": {"proposals": 2, "max_new_tokens": 4},
        "loop": {"cycles": 2},
        "evaluate": {"samples": 1},
    }
    params: Params = params_from_dict(small)
    return Job("gepa", f"jsonl:{tmp_path / 'mine.jsonl'}", 0, tmp_path / "run", params)


def test_n3_n6_a_run_records_what_it_left_out(job: Job) -> None:
    next(run_rounds(job, quiet=True))
    learner = next(run_rounds(job, resume=True, quiet=True))
    assert learner.round == 2
    left = [event for event in learner.books.events() if event["kind"] == "left out"]
    splits = {"train": 2, "validation": 0, "test": 0}
    assert left == [{"kind": "left out", "round": -1, "splits": splits, "longest": 501, "room": 440 - TURN}]
    asked = {line["problem_id"] for _, line in rollouts_of(job.folder)}
    assert asked == {f"p{i}" for i in range(3, 10)}
    assert {p.id for p in learner.domain.train} == {"p6", "p7", "p8", "p9"}


def test_the_plan_counts_with_the_questions_that_are_asked(job: Job) -> None:
    """Beside a prompt of one token the long questions fit."""
    params = job.params.replace(fast=job.params.fast.replace(max_prompt_tokens=1))
    jobs = [dataclasses.replace(job, params=p) for p in (job.params, params)]
    without, with_them = (plan_of(one, problems_of(one)).phases for one in jobs)
    assert with_them[0].name == without[0].name == "answers"
    assert with_them[0].bytes > 2 * without[0].bytes
