"""From an alert to a plan. C1 the plan is made of the domain's scored requests since the alert's time, and of no
others; C2 too few of them are an error that says how many there are; C3 the last comment on an answer that was not
right becomes the problem's feedback, on one line and cut; C4 the verifier is that of the domain in production; C5 a
tenant whose answers contradict the others' is left out and named, one that asks other things is not; C6 each problem
names the tenants that gave its answer, by their marks; C7 one tenant's share is bounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fst.bench.poison import traffic_of
from fst.config import params_from_dict
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.errors import DataError
from fst.monitoring.collected import Collected, collected, plan_adaptation
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from fst.traffic.trust import mark
from support.release_toys import PARAMS, ToyProject


def write_traffic(folder: Path) -> None:
    """A hundred answers, every other one to zeta, with a comment on each; one answer of zeta's is wrong."""
    log = TrafficLog(folder, LogLimits())
    for i in range(100):
        domain = "zeta" if i % 2 else "alpha"
        facts = (0.1, "r", "production", "p", f"question {i}", "x", (9, 6), 0.1, "stop", 200)
        log.append(Request(f"i{i}", float(i), "t", domain, "router", *facts))  # type: ignore[arg-type]
        log.append(Feedback(f"i{i}", float(i), "t", float(i != 11), f"answer {i}", f"say\nit {i} " * 60, "client"))
    log.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    monkeypatch.chdir(tmp_path)
    write_traffic(tmp_path / "traffic")
    return ToyProject(tmp_path, PARAMS + "adapt: {min_problems: 40}\n")


def test_c1_c2_c3_a_plan_from_traffic(project: ToyProject) -> None:
    project.release(project.candidate("zeta", project.base(), 0.9))
    found = plan_adaptation(project.params, project.places, "zeta", "prod", since=10.0)
    assert (found.domain, found.problems, found.start, found.channel) == ("zeta", 45, "zeta", "prod")
    lines = (project.root / found.data).read_text().splitlines()
    assert [f'"question {i}"' in "".join(lines) for i in (9, 10, 11, 99)] == [False, False, True, True]
    told = {row["question"]: row["feedback"] for row in map(json.loads, lines) if "feedback" in row}
    assert told == {"question 11": ("say it 11 " * 60)[:300]}
    assert found.verifier == ""
    with pytest.raises(DataError, match=r"zeta: 20 questions .* asks for 40"):
        plan_adaptation(project.params, project.places, "zeta", "prod", since=60.0)


def test_c4_the_verifier_is_that_of_production(project: ToyProject) -> None:
    named = {"name": "choice", "labels": [f"answer {i}" for i in range(100)]}
    production = project.release(project.candidate("zeta", project.base(), 0.9, verifier=named))
    found = plan_adaptation(project.params, project.places, "zeta", "prod", since=10.0)
    params = found.params(project.params, production)
    for name in (found.fast, found.slow):
        domain = load_domain(params.domain(name).full_spec, SplitSizes(15, 15, 15), 0)
        problem = domain.test[0]
        assert problem.verifier == named
        assert domain.verify(problem, f"It is {problem.answer}!").reward == 1.0


@pytest.mark.parametrize("lies", ["flipped", "nonsense"])
def test_c5_c6_a_tenant_that_lies_is_left_out_and_named(project: ToyProject, lies: str) -> None:
    project.release(project.candidate("zeta", project.base(), 0.9))
    told = traffic_of(200, 0.2, lies=lies)
    assert len({said.tenant for _, said in told}) == 5
    log = TrafficLog(project.root / "traffic", LogLimits())
    for request, said in told:
        log.append(request)
        log.append(said)
    log.close()
    found = plan_adaptation(project.params, project.places, "digits", "prod", since=0.0)
    (sentence,) = found.left_out
    assert sentence.startswith("the feedback of mallory contradicts the others': ")
    assert found.problems == len({r.question for r, said in told if said.tenant != "mallory"})
    rows = list(map(json.loads, (project.root / found.data).read_text().splitlines()))
    tellers = {said.tenant for _, said in told} - {"mallory"}
    assert {tuple(row["meta"]["tenants"]) for row in rows} == {(mark(tenant),) for tenant in tellers}
    more = params_from_dict({**project.params.as_dict(), "adapt": {"min_problems": found.problems + 1}})
    with pytest.raises(DataError, match=r"wait for more feedback; the feedback of mallory contradicts"):
        plan_adaptation(more, project.places, "digits", "prod", since=0.0)


def test_c5_a_tenant_that_asks_other_things_is_no_liar() -> None:
    """The release answers none of them, since it never learned them."""
    told = traffic_of(200, 0.2, lies="elsewhere")
    assert [suspect.tenant for suspect in Collected(tuple(told)).suspects] == []


def test_c5_where_the_release_has_no_right_answers_like_questions_tell() -> None:
    """A new domain in which many ask the same: the other tenants' answers say who contradicts them."""
    told = traffic_of(300, 0.2, rate=0.0, distinct=20)
    (suspect,) = Collected(tuple(told)).suspects
    assert (suspect.tenant, suspect.by) == ("mallory", "other tenants' answers to questions alike")


def test_c7_one_tenants_share_is_bounded(project: ToyProject) -> None:
    told = traffic_of(300, 0.6, lies="none")
    pairs = Collected(tuple(told)).lessons(project.params)
    loud = {request.question for request, said in told if said.tenant == "mallory"}
    share = sum(question in loud for question, _ in pairs) / len(pairs)
    assert 0.45 < share <= 0.5 < len(loud) / len(told)
    assert collected(project.root / "traffic", project.places.monitoring, "zeta").lessons(project.params) != []
