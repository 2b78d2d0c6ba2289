"""Problems of the user's own: files and hub datasets. The invariants:

f1  a file is read whole or not at all: every mistake with its line and its remedy
f2  a file without splits is dealt the same way for each seed: test and validation first, a third for training
f3  a hub dataset or a local folder is read by its columns
f4  a file is parsed once, however often it is read, and again when its content changes
f5  a problem's feedback is what a wrong answer hears, from a file or a column, and a right one never
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fst.data.domains import load_domain, verifier_of
from fst.data.rows import read_rows
from fst.data.scoring import parse_feedback, without_answer
from fst.data.types import Domain, Problem, SplitSizes
from fst.errors import DataError, UnknownDomain, VerifierError

SIZES = SplitSizes(train=12, validation=6, test=6)


def questions(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.question for problem in problems]


def all_problems(domain: Domain) -> tuple[Problem, ...]:
    return (*domain.train, *domain.validation, *domain.test)


def assert_disjoint(domain: Domain, sizes: SplitSizes) -> None:
    problems = all_problems(domain)
    assert (len(domain.train), len(domain.validation), len(domain.test)) == (sizes.train, sizes.validation, sizes.test)
    assert len(set(questions(problems))) == len({problem.id for problem in problems}) == len(problems)


def write(path: Path, rows: list[Any]) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"jsonl:{path}"


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "question": f"what is {number}?", "answer": str(number), **more}


ONE = SplitSizes(1, 1, 1)
SPLIT_ROWS = [row(1, split="train"), row(2, split="validation"), row(3, split="test")]


def test_f1_each_problem_has_its_verifier_and_its_split(tmp_path: Path) -> None:
    near = {"name": "numeric", "tolerance": 0.5}
    rows = [
        row(1, split="train", verifier=near, meta={"k": 1}),
        row(2, split="validation", verifier={"name": "regex", "search": True}),
        SPLIT_ROWS[2],
    ]
    spec = write(tmp_path / "a.jsonl", [rows[0], "", *rows[1:]])
    domain = load_domain(spec, ONE, seed=0)
    assert [problem.id for problem in all_problems(domain)] == ["p1", "p2", "p3"]
    assert domain.train[0] == Problem("p1", spec, "what is 1?", "1", {"k": 1})
    answers = ("1.4", "about 2", "about 3")
    assert [domain.verify(p, a).reward for p, a in zip(all_problems(domain), answers, strict=True)] == [1.0, 1.0, 0.0]
    assert questions(load_domain(spec.removeprefix("jsonl:"), ONE, 0).test) == ["what is 3?"]


def test_f1_a_byte_order_mark_and_line_separators_in_texts_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    odd = {**SPLIT_ROWS[0], "question": "one\u2028two\x85three"}
    text = "\r\n".join(json.dumps(r, ensure_ascii=False) for r in (odd, *SPLIT_ROWS[1:]))
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_domain(str(path), ONE, 0).train[0].question == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ('{"id": "x", ', ":2: no valid JSON"),
        ("[" * 100_000, ":2: no valid JSON"),
        ("[1]", ":2: a JSON list, no object; write {"),
        (row(1), ":2: the id 'p1' is taken by line 1"),
        ({"id": "x", "answer": "1"}, ":2: 'question' is missing"),
        (row(9, answer=" "), ":2: 'answer' is empty"),
        (row(9, answer=3), ":2: 'answer' is no text; write it as a text, in quotes"),
        (row(9, question="\ud800"), ":2: 'question' holds half a surrogate pair"),
        (row(9, spilt="train"), ":2: unknown key 'spilt'; did you mean 'split'?"),
        (row(9, verifier="exat"), ":2: unknown verifier 'exat'"),
        (row(9, verifier={"name": "exact", "x": 1}), ":2: verifier 'exact' has no option 'x'"),
        (row(9, verifier=3), ":2: 'verifier' must be a name"),
        (row(9, verifier="numeric", answer="many"), ":2: problem 'p9': 'numeric' needs a number"),
        (row(9, verifier="regex", answer="("), ":2: the pattern '(' is no regular expression"),
        (row(9, split="dev"), ":2: 'split' is 'dev'"),
        (row(9, feedback=" "), ":2: 'feedback' is empty; write something, or leave the key out"),
        (row(9, feedback=["no"]), ":2: 'feedback' is no text"),
        (row(9, meta=[]), ":2: 'meta' is no object"),
        (row(9), ':2: no "split", though other lines have one'),
        (
            row(9, split="test", question="what is 1?"),
            ":2: this question is in two splits (train on line 1 and test here)",
        ),
    ],
)
def test_f1_a_mistake_names_line_and_remedy(tmp_path: Path, bad: Any, words: str) -> None:
    path = tmp_path / "a.jsonl"
    if isinstance(bad, dict) and 'no "split"' not in words:
        bad = {"split": "train", **bad}
    with pytest.raises(DataError) as error:
        load_domain(write(path, [SPLIT_ROWS[0], bad, *SPLIT_ROWS[1:]]), ONE, seed=0)
    assert f"{path}{words}" in str(error.value)
    assert "\n" not in str(error.value)


def test_f1_twenty_mistakes_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_domain(write(tmp_path / "a.jsonl", [row(n, answer="") for n in range(25)]), ONE, seed=0)
    lines = str(error.value).splitlines()
    assert [line.split(":")[1] for line in lines[:20]] == [str(n) for n in range(1, 21)]
    assert lines[20:] == ["... and 5 more"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory); check the path (it is relative to "),
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \n\n", "the file is empty"),
        (b'{"id": "a"}\n{"id": "\xff"}\n', ":2: byte 9 is not UTF-8; save the file as UTF-8"),
        (b'\xef\xbb\xbf{"id": "a"}\n{"id": "\xff"}\n', ":2: byte 9 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_f1_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_domain(str(path), ONE, seed=0)
    assert words in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        load_domain(f"jsonl:{tmp_path}", ONE, seed=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_f1_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_domain(str(path), ONE, seed=0)


def test_f2_a_file_without_splits_is_dealt_held_out_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = write(tmp_path / "a.jsonl", [row(n) for n in range(100)])
    enough = load_domain(spec, SplitSizes(50, 20, 10), seed=1)
    assert_disjoint(enough, SplitSizes(50, 20, 10))
    assert caplog.text == ""
    other = load_domain(spec, SplitSizes(50, 20, 10), seed=2)
    assert (other.validation, other.test) == (enough.validation, enough.test)
    assert questions(other.train) != questions(enough.train)
    scarce = load_domain(spec, SplitSizes(500, 200, 100), seed=1)
    assert_disjoint(scarce, SplitSizes(34, 44, 22))
    assert (
        "100 problems are dealt as 34 train (500 asked), 44 validation (200 asked), 22 test (100 asked)" in caplog.text
    )
    assert "accuracy is known less well on fewer" in caplog.text
    reordered = load_domain(write(tmp_path / "b.jsonl", [row(n) for n in range(99, -1, -1)]), SplitSizes(50, 20, 10), 1)
    assert questions(reordered.test) == questions(enough.test)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((1024, 4, 4), (52, 4, 4)),
        ((1024, 4, 20), (36, 4, 20)),
        ((1024, 200, 200), (20, 20, 20)),
        ((1024, 0, 200), (20, 0, 40)),
        ((10, 25, 25), (10, 25, 25)),
        ((10, 200, 50), (10, 40, 10)),
        ((30, 10, 10), (30, 10, 10)),
    ],
)
def test_f2_validation_and_test_are_filled_first(
    tmp_path: Path, asked: tuple[int, int, int], found: tuple[int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    domain = load_domain(write(tmp_path / "a.jsonl", [row(n) for n in range(60)]), SplitSizes(*asked), 0)
    assert_disjoint(domain, SplitSizes(*found))
    assert (caplog.text == "") == (asked == found)
    assert ("known less well" in caplog.text) == (asked[1:] != found[1:])


def test_f2_a_split_without_problems_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no problem for the train split"):
        load_domain(write(tmp_path / "a.jsonl", [row(1), row(2)]), ONE, seed=0)
    with pytest.raises(DataError, match=r'no problem for the test split .* with "split": "test"'):
        load_domain(write(tmp_path / "b.jsonl", SPLIT_ROWS[:2]), ONE, seed=0)
    assert load_domain(write(tmp_path / "c.jsonl", SPLIT_ROWS[:2]), SplitSizes(1, 1, 0), seed=0).test == ()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local dataset of ten distinct questions, one of them twice; the library's cache stays in tmp_path."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    path = tmp_path / "sums"
    path.mkdir()
    rows = [{"prompt": f"{n} + 1?", "result": n + 1} for n in (*range(10), 3)]
    (path / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return path


def test_f3_a_local_folder_is_read_by_its_columns(folder: Path) -> None:
    domain = load_domain(f"hub:{folder}?question=prompt&answer=result&verifier=numeric", SplitSizes(6, 2, 2), seed=0)
    assert_disjoint(domain, SplitSizes(6, 2, 2))
    assert {p.question: p.answer for p in all_problems(domain)} == {f"{n} + 1?": str(n + 1) for n in range(10)}
    problem = domain.train[0]
    assert domain.verify(problem, f"so it is {problem.answer}.0").reward == 1.0


def test_f3_options_of_the_verifier_stand_in_the_query(folder: Path) -> None:
    spec = f"hub:{folder}?question=prompt&answer=result&verifier=numeric&tolerance=0.5"
    domain = load_domain(spec, SplitSizes(6, 2, 2), seed=0)
    problem = domain.train[0]
    near, far = (f"about {int(problem.answer) + off}" for off in (0.4, 0.6))
    assert [domain.verify(problem, text).reward for text in (near, far)] == [1.0, 0.0]
    assert verifier_of(f"hub:{folder}?ignore_case=true") == {"name": "exact", "ignore_case": True, "answer": "auto"}
    with pytest.raises(VerifierError, match="option 'tolerance' must be a number of 0 or more, not 'some'"):
        load_domain(f"hub:{folder}?verifier=numeric&tolerance=some", SIZES, seed=0)
    with pytest.raises(UnknownDomain, match="unknown option 'tolerence'; did you mean 'tolerance'"):
        load_domain(f"hub:{folder}?verifier=numeric&tolerence=1", SIZES, seed=0)


def test_f3_class_labels_are_read_by_their_names(folder: Path) -> None:
    labelled = datasets.Dataset.from_dict(
        {"question": [f"ticket {n}" for n in range(10)], "answer": [n % 2 for n in range(10)]},
        features=datasets.Features(
            {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["billing", "shipping"])}
        ),
    )
    labelled.to_parquet(folder.parent / "tickets" / "train.parquet")
    domain = load_domain(f"hub:{folder.parent / 'tickets'}", SplitSizes(6, 2, 2), seed=0)
    assert {p.question: p.answer for p in all_problems(domain)} == {
        f"ticket {n}": ("billing", "shipping")[n % 2] for n in range(10)
    }


def test_f3_what_a_hub_dataset_lacks_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'question'; the columns are prompt, result"):
        load_domain(f"hub:{folder}", SIZES, seed=0)
    with pytest.raises(DataError, match=r"no column 'reslt'.*add \?answer=result"):
        load_domain(f"hub:{folder}?question=prompt&answer=reslt", SIZES, seed=0)
    with pytest.raises(DataError, match=r"cannot be loaded .* config and split"):
        load_domain(f"hub:{folder}?split=nosuch", SIZES, seed=0)
    with pytest.raises(DataError, match="give a local folder"):
        load_domain(f"hub:{folder}/missing", SIZES, seed=0)
    with pytest.raises(VerifierError, match="unknown verifier 'exat'"):
        load_domain(f"hub:{folder}?verifier=exat", SIZES, seed=0)


def test_f3_rows_without_an_answer_are_named(folder: Path) -> None:
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": None}, {"question": "a", "answer": "2"}]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    with pytest.raises(DataError) as error:
        load_domain(f"hub:{folder}", ONE, seed=0)
    assert "row 1: the answer is empty" in str(error.value)
    assert "row 2: this question has another answer in an earlier row: 'a'" in str(error.value)


def test_f4_a_file_is_parsed_once_for_each_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, ["", *SPLIT_ROWS])
    rows = read_rows(path, "")
    assert [(row.number, row.values["id"]) for row in rows if row.values] == [(2, "p1"), (3, "p2"), (4, "p3")]
    assert read_rows(path, "") is rows
    write(path, [row(4)])
    assert [row.values for row in read_rows(path, "")] == [{"id": "p4", "question": "what is 4?", "answer": "4"}]


def test_f5_a_wrong_answer_hears_the_problems_feedback(tmp_path: Path) -> None:
    rows = [row(n, feedback=f"count\n  to {n}", verifier=["exact", "numeric", "regex"][n % 3]) for n in range(9)]
    domain = load_domain(write(tmp_path / "a.jsonl", rows), SplitSizes(3, 3, 3), 0)
    for problem in domain.problems:
        wrong, right = domain.verify(problem, "?"), domain.verify(problem, problem.answer)
        number = problem.answer
        assert f"\nexpected: {number}\nhint: count to {number}\ndiffers: " in wrong.feedback
        assert parse_feedback(wrong.feedback) == (problem.question, number)
        assert (right.reward, "hint" in right.feedback) == (1.0, False)
        assert without_answer(wrong.feedback, 0.0) == f"input: {problem.question}\noutput: ?\nreward: 0"


def test_f5_a_column_of_a_dataset_holds_it(folder: Path) -> None:
    rows = [{"question": f"q{n}", "answer": n, "why": f"see {n}" if n % 2 else None} for n in range(8)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    domain = load_domain(f"hub:{folder}?feedback=why&verifier=numeric", SplitSizes(4, 2, 2), 0)
    assert {p.answer: p.feedback for p in domain.problems} == {f"{n}": f"see {n}" if n % 2 else "" for n in range(8)}
    odd = next(problem for problem in domain.problems if problem.answer == "3")
    assert "\nhint: see 3\n" in domain.verify(odd, "4").feedback
    with pytest.raises(DataError, match=r"no column 'hint'.*add \?feedback=<column>"):
        load_domain(f"hub:{folder}?feedback=hint", SplitSizes(4, 2, 2), 0)
