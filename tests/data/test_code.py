"""A verifier in a file, `FILE.py:FUNCTION`. The invariants:

k1  it has the contract of an entry point, and is named for a whole domain
k2  what is missing or cannot be run is an error that says so, once
k3  a line of a data file cannot name code, and nothing of it runs
k4  other code is other data: the hash changes, and prepared problems are refused
k5  what a bundle is told of a domain's verifier is enough to score with it, and code is run only as the bundle knows it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fst.config import params_from_dict
from fst.data.code import code_sha256, load_code, names_code
from fst.data.domains import load_domain
from fst.data.prepared import load_prepared, write_prepared
from fst.data.scored_by import text_of, verifier_facts, written_verifier
from fst.data.types import Domain, Problem, SplitSizes
from fst.data.verifiers import build_verifier
from fst.errors import DataError, VerifierError
from fst.runs.origin import data_sha256
from fst.serving.feedback import Remembered, reward_of
from fst.types import scored_with

SIZES = SplitSizes(4, 2, 2)
CODE = "def score(question, answer, response, meta):\n    return (0.5, meta['why']) if response == answer else 0\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with problems and a verifier."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"p{n}", "question": f"q{n}", "answer": f"a{n}", "meta": {"why": f"w{n}"}} for n in range(8)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "checks.py").write_text(CODE)
    return tmp_path


def mine(verifier: str = "checks.py:score") -> Domain:
    return load_domain(scored_with("jsonl:mine.jsonl", verifier), SIZES, 0)


def write_lengths(domain: Domain, folder: Path) -> str:
    return write_prepared(domain, folder, lambda questions: [1] * len(questions))


@pytest.mark.usefixtures("folder")
def test_k1_a_function_in_a_file_scores_a_domain() -> None:
    domain = mine()
    problem = domain.train[0]
    score = domain.verify(problem, problem.answer)
    assert score.reward == 0.5
    assert score.feedback.endswith(f"differs: {problem.meta['why']}")
    assert domain.verify(problem, "x").reward == 0.0
    assert {json.dumps(p.verifier) for p in domain.problems} == {'{"name": "checks.py:score"}'}


@pytest.mark.usefixtures("folder")
def test_k1_params_and_specs_name_it(folder: Path) -> None:
    named = {"spec": "jsonl:mine.jsonl", "verifier": "checks.py:score"}
    params = params_from_dict({"domains": {"mine": named, "lab": {"spec": "lab/reverse"}}})
    assert params.domain("mine").full_spec == "jsonl:mine.jsonl?verifier=checks.py:score"
    assert params.domain("lab").full_spec == "lab/reverse"
    assert scored_with("hub:a/b?question=q", "numeric") == "hub:a/b?question=q&verifier=numeric"
    assert scored_with("jsonl:a.jsonl?verifier=math", "exact") == "jsonl:a.jsonl?verifier=math"
    near = load_domain(scored_with("jsonl:mine.jsonl", '{"name": "exact", "ignore_case": true}'), SIZES, 0)
    assert near.verify(near.train[0], near.train[0].answer.upper()).reward == 1.0
    with pytest.raises(VerifierError, match="these problems have their own verifier"):
        load_domain("lab/reverse?verifier=exact", SIZES, 0)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("verifier", "words"),
    [
        ("gone.py:score", "gone.py: no such file, for the verifier 'gone.py:score'; the path is relative to"),
        ("checks.py:sore", "checks.py: no function 'sore'; it has score"),
        ("broken.py:score", "broken.py: the file of a verifier cannot be run: ZeroDivisionError"),
        ("exat", "unknown verifier 'exat'"),
        ('{"name": ', "is no valid JSON"),
        ('{"tolerance": 1}', "'verifier' must be a name"),
    ],
)
def test_k2_what_cannot_be_used_is_told_once(folder: Path, verifier: str, words: str) -> None:
    (folder / "broken.py").write_text("1 / 0")
    with pytest.raises((VerifierError, DataError)) as error:
        mine(verifier)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_k3_a_line_names_no_code(folder: Path) -> None:
    (folder / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef score(*a): return 1\n")
    row = {"id": "p", "question": "q", "answer": "a", "verifier": "evil.py:score"}
    for spec in ("jsonl:evil.jsonl", "jsonl:evil.jsonl?verifier=checks.py:score"):
        (folder / "evil.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match="a problem may not name a file of code"):
            load_domain(spec, SplitSizes(1, 0, 0), 0)
    with pytest.raises(VerifierError, match="a problem may not name a file of code"):
        build_verifier("evil.py:score", {})
    assert not (folder / "ran").exists()


def test_k4_other_code_is_other_data(folder: Path) -> None:
    before, plain = data_sha256(mine()), data_sha256(mine(""))
    write_lengths(mine(), folder / "p")
    prepared = load_prepared(folder / "p")
    assert data_sha256(prepared) == before != plain
    problem = prepared.train[0]
    assert prepared.verify(problem, problem.answer).reward == 0.5
    (folder / "checks.py").write_text(CODE.replace("0.5", "0.7"))
    assert data_sha256(mine()) != before
    assert mine().verify(problem, problem.answer).reward == 0.7
    with pytest.raises(DataError, match="its code has changed since the problems were prepared; prepare the domain"):
        load_prepared(folder / "p")
    (folder / "checks.py").unlink()
    with pytest.raises(DataError, match=r"checks\.py: no such file"):
        load_prepared(folder / "p")


@pytest.mark.usefixtures("folder")
def test_k4_a_lines_verifier_and_feedback_are_data_too() -> None:
    def problems(**more: Any) -> Domain:
        return Domain("x", (Problem("p", "x", "q", "1", **more),), (), (), build_verifier("exact", {}))

    plain = data_sha256(problems())
    assert data_sha256(problems(verifier={"name": "exact"})) == plain
    others = [problems(verifier={"name": "numeric"}), problems(feedback="hint"), problems(feedback="other")]
    assert len({plain, *map(data_sha256, others)}) == 4


def judged(facts: dict[str, Any], response: str) -> float | None:
    return reward_of(Remembered("t", "mine", "q", response, "r"), "a3", {"domains": {"mine": facts}})


def test_k5_a_release_says_what_it_needs(folder: Path) -> None:
    facts = verifier_facts(mine())
    assert facts == {"name": "checks.py:score", "sha256": code_sha256("checks.py:score")}
    entry = {"spec": "jsonl:mine.jsonl?verifier=checks.py:score", "verifier": facts}
    (folder / "checks.py").write_text(
        "def score(q, answer, response, meta): return 0.25 if answer in response else 0\n"
    )
    assert judged(entry, "a3") is None, "another file than the release knows"
    new = {**entry, "verifier": {**facts, "sha256": code_sha256("checks.py:score")}}
    assert (judged(new, "so a3"), judged(new, "b")) == (0.25, 0.0)
    outside = {**facts, "name": f"{folder}/checks.py:score", "sha256": code_sha256("checks.py:score")}
    assert judged({**entry, "verifier": outside}, "a3") is None, "only below the working directory"
    assert judged({"spec": "hub:x?verifier=checks.py:score"}, "a3") is None, "no hash, no code"


@pytest.mark.usefixtures("folder")
def test_k5_one_verifier_of_all_problems_scores_live_answers() -> None:
    named = '{"name": "choice", "labels": ["a3", "b"]}'
    rows = [{"id": f"p{n}", "question": f"q{n}", "answer": "b"} for n in range(8)]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = scored_with("jsonl:labels.jsonl", named)
    facts = verifier_facts(load_domain(spec, SIZES, 0))
    assert facts == json.loads(named)
    assert written_verifier(text_of(facts)) == facts
    assert (text_of({}), text_of({"name": "a.py:f", "sha256": "0"})) == ("", "a.py:f")
    entry = {"spec": spec, "verifier": facts}
    assert (judged(entry, "It is A3."), judged(entry, "a3 or b")) == (1.0, 0.0)
    assert verifier_facts(mine("")) == {}
    assert verifier_facts(load_domain("lab/reverse", SIZES, 0)) == {}


def test_names() -> None:
    assert [
        name for name in ("a.py:f", "d/a.py:f", "a.py", "python:f", "a.py:", "a.py:1", "exact") if names_code(name)
    ] == [
        "a.py:f",
        "d/a.py:f",
    ]
    with pytest.raises(VerifierError, match=r"write FILE.py:FUNCTION"):
        load_code("a.txt")
