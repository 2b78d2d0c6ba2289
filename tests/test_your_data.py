"""docs/your-data.md and data/examples/tickets.jsonl. Y1 the ten lines are a domain, with the verifier that the page
names, and what the page says of feedback, labels and splits is so; Y2 the function of the page scores them; Y3 the
commands and the parameters of the page exist; Y4 the tickets are sixty different ones, as many of each label."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml

from fst.cli import app
from fst.config import params_from_dict
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.data.verifiers import known_verifiers
from support.imports import ROOT

PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
TICKETS = ROOT / "data" / "examples" / "tickets.jsonl"


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("tickets.jsonl").write_text(block("jsonl"), encoding="utf-8")
    Path("checks.py").write_text(block("python"), encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_y1_the_ten_lines_are_a_domain() -> None:
    domain = load_domain("jsonl:tickets.jsonl?verifier=choice", SplitSizes(1024, 3, 3), 0)
    assert len(domain.problems) == 10
    labels = ["billing", "bug", "login", "refund", "shipping"]
    problem = next(problem for problem in domain.problems if problem.feedback)
    assert problem.verifier == {"name": "choice", "labels": labels}
    assert domain.verify(problem, f"The label is {problem.answer}.").reward == 1.0
    assert f"\nhint: {problem.feedback}\n" in domain.verify(problem, "bug").feedback


@pytest.mark.usefixtures("folder")
def test_y2_the_function_of_the_page_scores_them() -> None:
    domain = load_domain("jsonl:tickets.jsonl?verifier=checks.py:score", SplitSizes(1024, 3, 3), 0)
    for problem in domain.problems:
        said = (problem.answer.title(), f"{problem.answer}, I think", "no idea")
        assert [domain.verify(problem, one).reward for one in said] == [1.0, 0.3, 0.0]


def test_y3_commands_parameters_and_verifiers_exist() -> None:
    commands = re.findall(r"^fst .*", PAGE, re.MULTILINE)
    assert {line.split()[1] for line in commands} == {"validate", "train", "report", "evaluate"}
    for line in commands:
        app.parse_args(shlex.split(line)[1:], exit_on_error=False)
    params = params_from_dict(yaml.safe_load(block("yaml")))
    assert params.domain("tickets").full_spec == "jsonl:mine/tickets.jsonl?verifier=mine/checks.py:score"
    listed = PAGE.split("| verifier | reward 1 for |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z_]+)`", listed, re.MULTILINE)) == set(known_verifiers())
    assert load_domain(f"jsonl:{TICKETS}?verifier=choice", SplitSizes(1024, 4, 20), 0).named is not None


def test_y4_sixty_different_tickets() -> None:
    rows = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]
    assert Counter(row["answer"] for row in rows) == dict.fromkeys(
        ["billing", "bug", "login", "refund", "shipping"], 12
    )
    assert len({row["question"].casefold() for row in rows}) == len({row["id"] for row in rows}) == 60
    words = [frozenset(re.findall(r"\w+", row["question"].casefold())) for row in rows]
    alike = [len(a & b) / len(a | b) for i, a in enumerate(words) for b in words[:i]]
    assert max(alike) < 0.5, "no two are one sentence with other words in it"
    assert not [row for row in rows if row["answer"] in row["question"].casefold().split()], "no ticket says its label"
