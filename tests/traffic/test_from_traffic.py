"""Problems from traffic. T1 a question that was answered in two ways is left out; T2 what is kept is distinct, has an
answer, and is the newest; T3 the file is named by its content and reads back as a domain; T4 order changes
nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.errors import DataError
from fst.traffic.problems import agreed, problem_lines, write_problems

PAIRS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["1", "2", " 1 ", "", " "])), max_size=40)


@given(PAIRS, st.integers(1, 10))
def test_t1_t2_what_is_kept_is_agreed_on_distinct_and_newest(pairs: list[tuple[str, str]], most: int) -> None:
    kept = agreed(pairs, most)
    said: dict[str, set[str]] = {}
    for question, answer in pairs:
        said.setdefault(question, set()).add(answer.strip())
    clear = {question for question, answers in said.items() if len(answers) == 1 and answers != {""}}
    assert {q for q, _ in kept} <= clear
    assert len(kept) == min(most, len(clear)) == len({q for q, _ in kept})
    assert all(said[question] == {answer} for question, answer in kept)
    last = {question: i for i, (question, _) in enumerate(pairs)}
    left_out = clear - {q for q, _ in kept}
    assert all(last[out] < last[q] for out in left_out for q, _ in kept)


def test_t3_the_file_is_named_by_its_content_and_reads_back_as_a_domain(tmp_path: Path) -> None:
    pairs = [(f"letters: a b {i}", f"answer {i}") for i in range(30)]
    file = write_problems(pairs, tmp_path / "traffic", "letters")
    assert file.name.startswith("letters-")
    assert write_problems(pairs, tmp_path / "traffic", "letters") == file
    assert write_problems(pairs[1:], tmp_path / "traffic", "letters") != file
    domain = load_domain(f"jsonl:{file}", SplitSizes(18, 6, 6), seed=0)
    problems = [*domain.train, *domain.validation, *domain.test]
    assert {(p.question, p.answer) for p in problems} == set(pairs)
    assert domain.verify(problems[0], problems[0].answer).reward == 1.0
    assert domain.verify(problems[0], "something else").reward == 0.0
    commented = write_problems(pairs, tmp_path / "traffic", "letters", {pairs[3][0]: " \n", pairs[4][0]: "not\nthat"})
    again = load_domain(f"jsonl:{commented}", SplitSizes(18, 6, 6), seed=0)
    assert {p.question: p.feedback for p in again.problems if p.feedback} == {pairs[4][0]: "not that"}


def test_t3_nothing_to_write_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'letters' has a right answer yet; send feedback"):
        write_problems([], tmp_path, "letters")
    assert list(tmp_path.iterdir()) == []


def test_t4_order_does_not_change_it() -> None:
    pairs = [(f"question {i} \N{SNOWMAN} \n line", f"{i}") for i in range(20)]
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert problem_lines(pairs) == problem_lines(shuffled)
    assert len({json.loads(line)["id"] for line in problem_lines(pairs).splitlines()}) == 20
