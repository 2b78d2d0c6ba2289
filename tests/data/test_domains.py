"""Domains. The invariants:

d1  splits are disjoint by question and as large as asked, whatever the spec, the sizes and the seed
d2  validation and test depend on the spec alone, train on the seed as well
d3  the answers are the rule's, and only they earn the reward; a conditional names the branch of each problem
d4  a spec that cannot be read is an error that says what there is
d5  a source with too few problems says so and stops
"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.data.domains import describe_families, load_domain
from fst.data.lab.rules import parse_rule
from fst.data.types import Domain, Problem, SplitSizes
from fst.errors import DataError, UnknownDomain

SIZES = SplitSizes(train=12, validation=6, test=6)
GENERATED = ("lab/sort_desc+add_one", "lab/letters:reverse", "star_graph/arms=3,length=4", "reasoning_gym/leg_counting")


def questions(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.question for problem in problems]


def all_problems(domain: Domain) -> tuple[Problem, ...]:
    return (*domain.train, *domain.validation, *domain.test)


def assert_disjoint(domain: Domain, sizes: SplitSizes) -> None:
    problems = all_problems(domain)
    assert (len(domain.train), len(domain.validation), len(domain.test)) == (sizes.train, sizes.validation, sizes.test)
    assert len(set(questions(problems))) == len({problem.id for problem in problems}) == len(problems)


@pytest.mark.parametrize("spec", GENERATED)
def test_d1_splits_are_disjoint(spec: str) -> None:
    assert_disjoint(load_domain(spec, SIZES, seed=0), SIZES)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 60), st.integers(0, 30), st.integers(0, 30))
def test_d1_splits_are_disjoint_for_any_seed_and_sizes(seed: int, train: int, validation: int, test: int) -> None:
    sizes = SplitSizes(train, validation, test)
    domain = load_domain("lab/reverse", sizes, seed)
    assert_disjoint(domain, sizes)
    larger = load_domain("lab/double", SplitSizes(200, 50, 50), seed)
    assert not set(questions(domain.train)) & set(questions((*larger.validation, *larger.test)))


@pytest.mark.parametrize("spec", GENERATED)
def test_d2_held_out_splits_do_not_depend_on_the_seed(spec: str) -> None:
    one, two, again = (load_domain(spec, SIZES, seed) for seed in (1, 2, 1))
    assert (one.validation, one.test, one.train) == (again.validation, again.test, again.train)
    assert (one.validation, one.test) == (two.validation, two.test)
    assert questions(one.train) != questions(two.train)


def test_d2_held_out_splits_of_other_sizes_share_their_beginning() -> None:
    small, large = (load_domain("lab/reverse", SplitSizes(n, n, n), seed=3) for n in (5, 20))
    assert (small.train, small.validation, small.test) == (large.train[:5], large.validation[:5], large.test[:5])


def test_d2_equal_specs_deal_equal_problems() -> None:
    assert questions(load_domain("lab/reverse", SIZES, 0).test) == questions(
        load_domain("lab/digits:reverse", SIZES, 0).test
    )
    two = load_domain("star_graph", SIZES, 0), load_domain("star_graph/length=3,arms=2", SIZES, 0)
    assert questions(two[0].train) == questions(two[1].train)


def test_d3_lab_answers_are_the_rules() -> None:
    domain = load_domain("lab/letters:rotate_left+reverse", SIZES, seed=0)
    for problem in all_problems(domain):
        first, *rest = problem.question.removeprefix("letters: ").split()
        assert problem.answer == " ".join([first, *reversed(rest)])


def test_d3_only_the_exact_answer_earns() -> None:
    domain = load_domain("lab/sort_desc+add_one", SIZES, seed=0)
    problem = domain.train[0]
    assert domain.verify(problem, f"  {problem.answer}\n").reward == 1.0
    assert [domain.verify(problem, answer).reward for answer in ("", problem.answer[:-1], problem.answer + " 1")] == [
        0,
        0,
        0,
    ]
    assert domain.verify(problem, "").feedback == (
        f"input: {problem.question}\noutput: \nexpected: {problem.answer}\ndiffers: no answer"
    )


def test_d3_a_conditional_names_the_branch() -> None:
    domain = load_domain("lab/if_first_even(sort_desc,reverse)", SplitSizes(40, 10, 10), seed=0)
    for problem in all_problems(domain):
        values = tuple(int(digit) for digit in problem.question.removeprefix("digits: ").split())
        branch = "then" if values[0] % 2 == 0 else "otherwise"
        assert problem.meta == {"branch": branch}
        chain = parse_rule("sort_desc" if branch == "then" else "reverse")
        assert problem.answer == " ".join(map(str, chain(values)))
    assert {problem.meta["branch"] for problem in domain.train} == {"then", "otherwise"}
    assert load_domain("lab/reverse", SIZES, 0).train[0].meta == {}


def test_d3_a_star_graphs_answer_walks_from_start_to_goal() -> None:
    domain = load_domain("star_graph/arms=3,length=4", SIZES, seed=0)
    for problem in domain.train:
        edges_text, ends = problem.question.removeprefix("edges: ").split("; ")
        edges = [tuple(edge.split(" > ")) for edge in edges_text.split(", ")]
        nodes = problem.answer.split()
        assert len(edges) == 12
        assert set(pairwise(nodes)) <= set(edges)
        assert (len(nodes), ends) == (5, f"start {nodes[0]} goal {nodes[-1]}")
    assert domain.verify(domain.train[0], domain.train[0].answer).reward == 1.0


@pytest.mark.parametrize("name", ["leg_counting", "countdown", "graph_color", "word_ladder"])
def test_d3_reasoning_gym_scores_with_its_own_scorers(name: str) -> None:
    domain = load_domain(f"reasoning_gym/{name}", SplitSizes(3, 2, 2), seed=0)
    problem = domain.train[0]
    assert domain.verify(problem, "no idea").reward < 0.2
    if problem.answer != "any correct solution":
        score = domain.verify(problem, f"I think <answer>1</answer>, no: <answer>{problem.answer}</answer>")
        assert score.reward == domain.verify(problem, problem.answer).reward == 1.0
        assert score.feedback.endswith(f"expected: {problem.answer}\ndiffers: nothing, correct")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing", "unknown domain 'nothing'"),
        ("lab", "reasoning_gym/leg_counting"),
        ("lab/sort_up", "unknown operation 'sort_up'"),
        ("lab/words:reverse", "unknown surface 'words'"),
        ("lab/letters:sort_desc+double", "on letters: double has no wording there"),
        ("lab/letters:if_first_even(reverse,sort_asc)", "on letters: if_first_even has no wording there"),
        ("star_graph/arms=x", "cannot read 'arms=x'"),
        ("star_graph/legs=3", "cannot read 'legs=3'"),
        ("star_graph/arms=5,length=9", "needs 46 nodes, and there are 26"),
        ("reasoning_gym/leg_count", "close: leg_counting"),
        ("hub:", "cannot read 'hub:'"),
        ("hub:x?question=a&anser=b", "unknown option 'anser'; did you mean 'answer'"),
    ],
)
def test_d4_a_spec_that_cannot_be_read(spec: str, words: str) -> None:
    with pytest.raises(UnknownDomain) as error:
        load_domain(spec, SIZES, seed=0)
    assert words in str(error.value)


def test_d4_every_family_is_described_in_the_error() -> None:
    with pytest.raises(UnknownDomain) as error:
        load_domain("?", SIZES, seed=0)
    assert len(describe_families()) == 8
    assert [example for example, sentence in describe_families() if f"{example} " not in str(error.value)] == []


def test_d4_describing_the_families_loads_no_large_library() -> None:
    script = (
        "import sys; from fst.data.domains import describe_families; describe_families(); "
        "print(sorted({'torch', 'datasets', 'reasoning_gym', 'pandas', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_d5_too_few_distinct_questions() -> None:
    with pytest.raises(DataError, match=r"too few distinct questions: \d+ found for the train split, 5000 asked"):
        load_domain("star_graph/arms=1,length=1", SplitSizes(5000, 1, 1), seed=0)
