"""From natural traffic to a plan, with nothing but thumbs and comments. L1 questions of a puzzle that no release serves
raise one alert beside those of the served one, and none before they come; L2 the answers that got a thumbs-up become
the problems of its adaptation, their own part of them; L3 cut-off answers, thumbs-down and scores of verifiers give no
answer; L4 a comment on a bad answer to the same question is the problem's feedback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fst.config import DriftParams
from fst.data.domains import load_domain
from fst.data.types import Problem, SplitSizes
from fst.monitoring.collected import plan_adaptation, with_answer
from fst.monitoring.watcher import Watcher
from fst.serving.router import Router
from fst.store.bundle import Bundle, write_bundle
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from support.release_toys import PARAMS, ToyProject

SERVED, NEW = "calendar_arithmetic", "family_relationships"


def problems(dataset: str) -> tuple[Problem, ...]:
    return load_domain(f"reasoning_gym/{dataset}", SplitSizes(260, 1, 1), 0).train


def released(project: ToyProject) -> Bundle:
    """A release that serves one puzzle."""
    made = project.candidate("zeta", project.base(), 0.9)
    rows = [
        {"question": p.question, "response": p.answer, "reward": 1.0, "tokens": 3, "finish": "stop"}
        for p in problems(SERVED)[:200]
    ]
    documents = {"prompts.json": made.prompts(), "evaluation.json": made.evaluation()}
    documents["reference.json"] = {"zeta": {"rows": rows}}
    return project.release(write_bundle(project.root / "served", made.manifest, documents, project.adapter))


class Users:
    """They ask, and say what they think of the answers."""

    def __init__(self, project: ToyProject, bundle: Bundle) -> None:
        self.log, self.bundle, self.count = TrafficLog(project.root / "traffic", LogLimits()), bundle, 0
        self.router = Router({"zeta": [p.question for p in problems(SERVED)[:200]]})

    def ask(self, question: str, response: str, reward: float, comment: str = "") -> None:
        self.count += 1
        route = self.router.route(question)
        domain, routed = (route.domain, "router") if route.known else ("", "unknown")
        facts = (route.novelty, self.bundle.id, "production", "p", question, response, (9, 3), 0.1, "stop", 200)
        at = float(self.count)
        self.log.append(Request(f"i{at}", at, f"t{self.count % 3}", domain, routed, *facts))  # type: ignore[arg-type]
        self.log.append(Feedback(f"i{at}", at, f"t{self.count % 3}", reward, None, comment, "client"))


def test_l1_l2_l4_thumbs_and_comments_make_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = ToyProject(tmp_path, PARAMS + "adapt: {min_problems: 40}\n")
    bundle = released(project)
    users = Users(project, bundle)
    watcher = Watcher(tmp_path / "traffic", project.places.monitoring, "prod", DriftParams(), lambda: bundle)
    for known in problems(SERVED)[200:]:
        users.ask(known.question, known.answer, 1.0)
    assert watcher.look(now=1000.0) == []
    new = problems(NEW)[:60]
    for number, problem in enumerate(new):
        if number % 2:
            users.ask(problem.question, "no idea", 0.0, f"wrong {number}")
        users.ask(problem.question, f"I think so. <answer>{problem.answer}</answer>", 1.0)
    users.log.close()
    (alert,) = watcher.look(now=1001.0)
    assert alert.kind == "new_domain"
    assert set(alert.examples) <= {problem.question for problem in new}
    plan = plan_adaptation(project.params, project.places, alert.domain, "prod", since=0.0)
    rows = {row["question"]: row for row in map(json.loads, (tmp_path / plan.data).read_text().splitlines())}
    assert plan.problems == len(rows) >= 57
    for number, problem in enumerate(new):
        if row := rows.get(problem.question):
            assert row["answer"] == problem.answer
            assert row.get("feedback") == (f"wrong {number}" if number % 2 else None)


def test_l3_what_gives_no_answer() -> None:
    request = Request("i", 0.0, "t", "zeta", "router", 0.1, "r", "production", "p", "q", "42", (9, 3), 0.1, "stop", 200)
    up = Feedback("i", 0.0, "t", 1.0, None, "", "client")
    assert with_answer(request, up).answer == "42"
    assert with_answer(request, replace(up, answer="7")).answer == "7"
    for other, said in (
        (replace(request, finish="length"), up),
        (replace(request, response=" "), up),
        (request, replace(up, reward=0.5)),
        (request, replace(up, reward=None, comment="fine")),
        (request, replace(up, scored_by="verifier")),
    ):
        assert with_answer(other, said).answer is None
