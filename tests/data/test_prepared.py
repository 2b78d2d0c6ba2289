"""Prepared data. The invariants:

p1  what is read is what was written: the spec, the problems in their order, and a verifier that scores alike
p2  equal problems, equal bytes, whatever the process; the hash returned is the folder's
p3  a folder is replaced as a whole or not at all
p4  what is not as it was written is refused with file, line and remedy
p5  values that JSON lacks come back as they were, and the file is strict JSON all the same
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fst.data.domains import load_domain, verifier_of
from fst.data.prepared import contents_sha256, decode, encode, load_prepared, write_prepared
from fst.data.types import SPLITS, Domain, Problem, SplitSizes
from fst.data.verifiers import build_verifier
from fst.errors import DataError, UnknownDomain

SIZES = SplitSizes(train=8, validation=4, test=4)
MADE = (
    "lab/sort_desc+add_one",
    "lab/letters:reverse",
    "lab/if_first_even(sort_desc,reverse)",
    "star_graph/arms=3,length=4",
    "reasoning_gym/leg_counting",
    "reasoning_gym/countdown",
    "reasoning_gym/graph_color",
    "reasoning_gym/knights_knaves",
)
MIXED = (
    ("4", {"verifier": {"name": "numeric", "tolerance": 0.5}}),
    ("Paris", {"verifier": {"name": "exact", "ignore_case": True}, "meta": {"branch": "then", "$tuple": [1]}}),
    ("ab+c", {"verifier": "regex"}),
    ("B", {"verifier": "multiple_choice", "meta": {"weights": [1, 2.5, None, {"deep": True}]}}),
    ("x y", {"feedback": "two items, in this order"}),
    ("\\frac{1}{2}", {"verifier": "math"}),
)


def lengths(questions: list[str]) -> list[int]:
    return [len(question.split()) for question in questions]


def all_problems(domain: Domain) -> tuple[Problem, ...]:
    return (*domain.train, *domain.validation, *domain.test)


def responses(problem: Problem) -> list[str]:
    """Right, wrong, nearly right, and in the forms that some verifiers look for."""
    answer = problem.answer
    near = [answer.upper(), f" {answer}\n", answer[:-1], f"{answer} 1", f"the answer is {answer}", "4.4 or so", "abbbc"]
    return [answer, "", *near, f"<answer>{answer}</answer>", "$0.5$", '{"1": 2}']


def assert_same(prepared: Domain, original: Domain) -> None:
    assert prepared.spec == original.spec
    for name in SPLITS:
        assert getattr(prepared, name) == getattr(original, name)
    for problem, twin in zip(all_problems(prepared), all_problems(original), strict=True):
        for response in responses(twin):
            assert prepared.verify(problem, response) == original.verify(twin, response)


def user_file(path: Path, splits: bool = True) -> str:
    """Eighteen problems with six kinds of verifiers, under a blank line; each split gets some of each kind."""
    rows = []
    for number in range(18):
        answer, more = MIXED[number % len(MIXED)]
        row = {"id": f"p{number}", "question": f"what is {number}\u2028?", "answer": answer, **more}
        rows.append({**row, "split": SPLITS[number // 6]} if splits else row)
    path.write_text("\n" + "\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return f"jsonl:{path}"


@pytest.mark.parametrize("spec", MADE)
def test_p1_made_problems_come_back(tmp_path: Path, spec: str) -> None:
    original = load_domain(spec, SIZES, seed=3)
    write_prepared(original, tmp_path / "p", lengths)
    assert_same(load_prepared(tmp_path / "p"), original)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MADE[:4]), st.integers(0, 2**32), st.text(max_size=30), st.integers(0, 7))
def test_p1_any_response_scores_alike(tmp_path: Path, spec: str, seed: int, response: str, which: int) -> None:
    original = load_domain(spec, SplitSizes(8, 1, 0), seed)
    write_prepared(original, tmp_path / "p", lengths)
    prepared = load_prepared(tmp_path / "p")
    assert (prepared.train, prepared.validation, prepared.test) == (original.train, original.validation, ())
    problem = original.train[which]
    for text in (response, problem.answer + response, problem.answer):
        assert prepared.verify(prepared.train[which], text) == original.verify(problem, text)


@pytest.mark.parametrize("splits", [True, False])
def test_p1_a_users_problems_keep_their_verifiers_and_lines(tmp_path: Path, splits: bool) -> None:
    original = load_domain(user_file(tmp_path / "a.jsonl", splits), SplitSizes(6, 6, 6), seed=0)
    write_prepared(original, tmp_path / "p", lengths)
    (tmp_path / "a.jsonl").unlink()
    prepared = load_prepared(tmp_path / "p")
    assert_same(prepared, original)
    by_id = {problem.id: problem for problem in all_problems(prepared)}
    assert {id: problem.line for id, problem in by_id.items()} == {f"p{n}": n + 2 for n in range(18)}
    assert by_id["p0"].verifier == {"name": "numeric", "tolerance": 0.5}
    assert by_id["p1"].meta == {"branch": "then", "$tuple": [1]}
    scores = [prepared.verify(by_id[f"p{n}"], text).reward for n, text in enumerate(("4.4", "paris", "abbc", "(B)"))]
    assert scores == [1.0, 1.0, 1.0, 1.0]
    assert prepared.verify(by_id["p4"], "X Y").reward == 0.0
    assert "\nhint: two items, in this order\n" in prepared.verify(by_id["p4"], "X Y").feedback


def test_p1_a_local_folder_needs_no_hub_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    folder = tmp_path / "sums"
    folder.mkdir()
    rows = [{"prompt": f"{n} + 1?", "result": n + 1} for n in range(16)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    spec = f"hub:{folder}?question=prompt&answer=result&verifier=numeric"
    original = load_domain(spec, SIZES, seed=0)
    write_prepared(original, tmp_path / "p", lengths)
    (folder / "train.jsonl").unlink()
    prepared = load_prepared(tmp_path / "p")
    assert_same(prepared, original)
    assert prepared.verify(prepared.test[0], f"it is {prepared.test[0].answer}.0").reward == 1.0


def test_p1_a_verifier_is_named_without_drawing_problems() -> None:
    named = {
        "lab/reverse": {"name": "exact"},
        "star_graph": {"name": "exact"},
        "reasoning_gym/leg_counting": {"name": "reasoning_gym", "dataset": "leg_counting", "answer": "auto"},
        "jsonl:no/such/file": {"name": "each problem's own", "answer": "auto"},
        "no/such.jsonl": {"name": "each problem's own", "answer": "auto"},
        "hub:x/y@main:c?verifier=math": {"name": "math", "answer": "auto"},
    }
    assert {spec: verifier_of(spec) for spec in named} == named
    for spec in ("nothing", "lab", "hub:"):
        with pytest.raises(UnknownDomain):
            verifier_of(spec)


def test_p2_a_line_says_what_a_problem_is(tmp_path: Path) -> None:
    domain = load_domain(user_file(tmp_path / "a.jsonl"), SplitSizes(6, 6, 6), seed=0)
    write_prepared(domain, tmp_path / "p", lengths)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "domain.json",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    rows = [json.loads(line) for line in (tmp_path / "p" / "validation.jsonl").read_text("utf-8").split("\n")[:-1]]
    row = next(row for row in rows if row["id"] == "p6")
    assert row == {
        "id": "p6",
        "question": "what is 6\u2028?",
        "answer": "4",
        "split": "validation",
        "meta": {},
        "tokens": 4,
        "line": 8,
        "verifier": {"name": "numeric", "tolerance": 0.5},
    }
    assert json.loads((tmp_path / "p" / "domain.json").read_text()) == {
        "schema": 1,
        "spec": domain.spec,
        "verifier": {"name": "each problem's own", "answer": "auto"},
        "problems": {"train": 6, "validation": 6, "test": 6},
    }


def test_p2_equal_problems_equal_bytes(tmp_path: Path) -> None:
    domain = load_domain("reasoning_gym/graph_color", SIZES, seed=1)
    one, two = (write_prepared(domain, tmp_path / name, lengths) for name in "ab")
    assert one == two == contents_sha256(tmp_path / "b")
    files = sorted((tmp_path / "a").iterdir())
    listing = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    assert one == hashlib.sha256(listing.encode()).hexdigest()
    other = load_domain("reasoning_gym/graph_color", SIZES, seed=2)
    assert write_prepared(other, tmp_path / "b", lengths) != one
    assert write_prepared(domain, tmp_path / "b", lambda questions: [1] * len(questions)) != one


def test_p2_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    sets = Domain("lab/x", (Problem("a", "lab/x", "q", "1", {"s": {f"k{n}" for n in range(9)}}),), (), (), print)  # type: ignore[arg-type]
    here = write_prepared(sets, tmp_path / "here", lengths)
    script = (
        "import sys; from pathlib import Path\n"
        "from fst.data.types import *\nfrom fst.data.prepared import write_prepared\n"
        "p = Problem('a', 'lab/x', 'q', '1', {'s': {f'k{n}' for n in range(9)}})\n"
        "print(write_prepared(Domain('lab/x', (p,), (), (), print), Path(sys.argv[1]), lambda q: [1] * len(q)))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", script, str(tmp_path / "there")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


def test_p3_the_old_folder_stays_when_writing_fails(tmp_path: Path) -> None:
    domain = load_domain("lab/reverse", SIZES, seed=0)
    before = write_prepared(domain, tmp_path / "p", lengths)

    def broken(questions: list[str]) -> list[int]:
        raise OSError("no tokenizer")

    with pytest.raises(OSError, match="no tokenizer"):
        write_prepared(domain, tmp_path / "p", broken)
    unwritable = Domain("lab/x", (Problem("a", "lab/x", "q", "1", {"now": object()}),), (), (), domain.verify)
    with pytest.raises(DataError, match=r"problem 'a': meta holds a object, which no file can hold"):
        write_prepared(unwritable, tmp_path / "p", lengths)
    assert contents_sha256(tmp_path / "p") == before
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_p3_nothing_of_an_old_folder_remains(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "left.jsonl").write_text("{}")
    write_prepared(load_domain("lab/reverse", SIZES, seed=0), tmp_path / "p", lengths)
    assert not (tmp_path / "p" / "left.jsonl").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def edit_line(file: str, number: int, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        lines = (folder / file).read_text("utf-8").split("\n")
        changed = change(json.loads(lines[number - 1]))
        lines[number - 1] = changed if isinstance(changed, str) else json.dumps(changed)
        (folder / file).write_text("\n".join(lines), "utf-8")

    return edit


def edit_head(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        head = json.loads((folder / "domain.json").read_text())
        (folder / "domain.json").write_text(json.dumps({**head, **values}))

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "domain.json").unlink(), "domain.json: cannot be read (No such file"),
        (lambda folder: (folder / "test.jsonl").unlink(), "test.jsonl: cannot be read (No such file"),
        (lambda folder: (folder / "domain.json").write_text("{"), "domain.json: no valid JSON"),
        (lambda folder: (folder / "domain.json").write_bytes(b"\xff"), "domain.json: no valid JSON"),
        (edit_head(schema=2), "domain.json: not of schema 1"),
        (edit_head(spec=3), "domain.json: spec is not as it was written"),
        (edit_head(verifier={}), "domain.json: verifier is not as it was written"),
        (edit_head(verifier={"name": "exat"}), "domain.json: the verifier 'exat' cannot be rebuilt: unknown verifier"),
        (
            edit_head(verifier={"name": "reasoning_gym", "dataset": "leg"}),
            "domain.json: the verifier 'reasoning_gym' cannot be rebuilt",
        ),
        (edit_head(problems={"train": 8}), "domain.json: problems does not count"),
        (
            edit_head(problems={"train": 9, "validation": 4, "test": 4}),
            "train.jsonl: 8 problems where domain.json says 9",
        ),
        (
            edit_line("train.jsonl", 3, lambda row: "{"),
            "train.jsonl:3: not as it was written (no valid JSON: Expecting",
        ),
        (edit_line("test.jsonl", 2, lambda row: [1]), "test.jsonl:2: not as it was written (a JSON list, no object)"),
        (
            edit_line("test.jsonl", 2, lambda row: {**row, "tokens": "3"}),
            "test.jsonl:2: not as it was written ('tokens'",
        ),
        (edit_line("test.jsonl", 2, lambda row: {**row, "tokens": True}), "('tokens' is no int)"),
        (edit_line("test.jsonl", 2, lambda row: {k: row[k] for k in row if k != "id"}), "('id' is missing)"),
        (edit_line("test.jsonl", 2, lambda row: {**row, "more": 1}), "(unknown key 'more')"),
        (edit_line("test.jsonl", 2, lambda row: {**row, "split": "train"}), "(a problem of the split 'train')"),
        (
            edit_line("test.jsonl", 2, lambda row: {**row, "meta": {"$set": 3}}),
            "(an object that nothing reads: ['$set'])",
        ),
        (edit_line("test.jsonl", 2, lambda row: {**row, "meta": {"$x": 3}}), "(an object that nothing reads: ['$x'])"),
    ],
)
def test_p4_damage_is_named_with_file_and_line(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    write_prepared(load_domain("lab/reverse", SIZES, seed=0), tmp_path / "p", lengths)
    damage(tmp_path / "p")
    with pytest.raises(DataError) as error:
        load_prepared(tmp_path / "p")
    assert words in str(error.value)
    assert str(tmp_path / "p") in str(error.value)
    assert "prepare the domain again" in str(error.value) or "unknown verifier" in words or "rebuilt" in words


def test_p4_an_id_twice_and_a_verifier_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    write_prepared(load_domain(user_file(tmp_path / "a.jsonl"), SplitSizes(6, 6, 6), 0), folder, lengths)
    edit_line("test.jsonl", 2, lambda row: {**row, "verifier": {"name": "python:gone"}})(folder)
    with pytest.raises(DataError, match=r"test.jsonl:2: no entry point 'gone'"):
        load_prepared(folder)
    taken = json.loads((folder / "train.jsonl").read_text("utf-8").split("\n")[4])["id"]
    edit_line("test.jsonl", 2, lambda row: {**row, "id": taken})(folder)
    with pytest.raises(DataError, match=rf"test.jsonl:2: the id '{taken}' is taken by .*train.jsonl:5"):
        load_prepared(folder)


KEYS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text(max_size=3))
VALUES = st.recursive(
    KEYS | st.floats(allow_nan=False) | st.frozensets(KEYS, max_size=3) | st.sets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS | st.sampled_from(["$set", "$tuple", "$dict"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A value with the types of all its parts, so that 1, True and 1.0, or a list and a tuple, differ."""
    if isinstance(value, dict):
        return "dict", [(typed(key), typed(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, map(typed, value)))
    if isinstance(value, list | tuple):
        return type(value).__name__, [typed(item) for item in value]
    return type(value).__name__, repr(value)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_p5_any_value_comes_back_as_it_was(value: Any) -> None:
    text = json.dumps(encode(value), allow_nan=False)
    assert typed(decode(json.loads(text))) == typed(value)


def test_p5_what_json_lacks() -> None:
    plain = {"a": [1, 2.5, None, True, "x"], "b": {}}
    assert encode(plain) == plain
    assert encode({"t": (1, [2])}) == {"t": {"$tuple": [1, [2]]}}
    assert encode({1: "x"}) == {"$dict": [[1, "x"]]}
    assert encode({"$set": 1}) == {"$dict": [["$set", 1]]}
    assert encode([math.inf, -math.inf]) == [{"$float": "inf"}, {"$float": "-inf"}]
    assert math.isnan(decode(encode(math.nan)))
    with pytest.raises(TypeError, match="a bytes"):
        encode({"x": b"1"})
    with pytest.raises(ValueError, match=r"an object that nothing reads: \['\$set', 'y'\]"):
        decode({"$set": [1], "y": 2})


def test_p5_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    problem = Problem("a", "lab/reverse", "q \ud800 é", "1", {"k": "\udfff"})
    write_prepared(Domain("lab/reverse", (problem,), (), (), build_verifier("exact", {})), tmp_path / "p", lengths)
    assert load_prepared(tmp_path / "p").train == (problem,)
