"""Demonstrations: invariants D1 to D6 of fst/method/fast/demonstrations.py on toys; P8 and P11 of
fst/method/fast/round.py with them; and what a run on a real, tiny model shows and records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.config import FastParams, params_from_dict
from fst.data.domains import load_domain, right_answer
from fst.data.scoring import exact, feedback_text, without_answer
from fst.data.types import Domain, Problem, Score, SplitSizes
from fst.errors import VerifierError
from fst.method.fast.demonstrations import (
    Alternating,
    Demonstrated,
    Demonstrator,
    Example,
    cleared,
    demonstrating,
    read,
)
from fst.method.fast.round import Evolver, FastRound, RoundPlan, fast_round
from fst.method.loop import rounds
from fst.method.run.runner import Job, prepare
from fst.models.likelihood import answer_likelihoods, answer_logprobs
from fst.models.policy import Policy
from fst.models.reflector import Proposal
from fst.runs.progress import Progress
from fst.runs.view import load_run
from fst.types import Population, Prompt, Rollout
from support.slow_toys import verify as mixed

SHOWN = Demonstrated("add one", (Example("one", "2"), Example("two\nlines", "3")))
PIECES = (
    "Question: ",
    "Answer: ",
    "Examples:",
    "\n",
    "\n\n",
    ">",
    "a",
    " ",
    "",
    "\r",
    "\u2028",
    "Examples:\n\nQuestion: ",
)
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def test_d1_the_form() -> None:
    form = "add one\n\nExamples:\n\nQuestion: one\nAnswer: 2\n\nQuestion: two\nlines\nAnswer: 3"
    assert (SHOWN.text, read(form)) == (form, SHOWN)
    assert Demonstrated("", SHOWN.examples).text == form.removeprefix("add one\n\n")
    assert read("add one\n\nExamples:\n\nQuestion: one\nno answer").examples == ()
    assert Demonstrated("x", (Example("a\nAnswer: 1", "b\n>Question: c"),)).text == (
        "x\n\nExamples:\n\nQuestion: a\n>Answer: 1\nAnswer: b\n>>Question: c"
    )


@settings(max_examples=150, deadline=None)
@given(texts, st.lists(st.builds(Example, texts, texts), min_size=1, max_size=3))
def test_d1_what_is_written_is_read_back(instruction: str, examples: list[Example]) -> None:
    parts = Demonstrated(instruction, tuple(examples))
    assert read(parts.text) == parts


@settings(max_examples=150, deadline=None)
@given(texts)
def test_d1_what_is_read_is_written_back(text: str) -> None:
    assert read(text).text == text
    assert read(f"{SHOWN.text}{text}").text == f"{SHOWN.text}{text}"


@dataclass
class Judge:
    """Likelihoods: `liking` of the prompt, and what was asked."""

    liking: Callable[[str], float] = len
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, asked: Sequence[tuple[str, str, str]]) -> tuple[list[float], int]:
        self.asked += asked
        return [self.liking(prompt) for prompt, _, _ in asked], 7


def told(numbers: Sequence[int], right: bool = True) -> list[str]:
    """Feedback on the problems with these numbers: the answer to "q3" is "r3"."""
    full = [feedback_text(Problem(str(i), "toy", f"q{i}", f"r{i}"), "x", "wrong") for i in numbers]
    return full if right else [without_answer(text, 0.0) for text in full]


def demonstrator(judge: Judge, most: int = 3, most_tokens: int = 400) -> Demonstrator:
    return Demonstrator(judge, lambda question: f"r{question[1:]}", len, most, most_tokens)


@settings(max_examples=100, deadline=None)
@given(
    shown=st.lists(st.integers(0, 19), max_size=5, unique=True),
    asked=st.lists(st.integers(0, 19), max_size=8),
    others=st.lists(st.integers(0, 19), max_size=20),
    most=st.integers(1, 4),
    most_tokens=st.integers(1, 150),
    seed=st.integers(0, 9),
)
def test_d2_d3_d5_d6_proposals_keep_their_bounds(
    shown: list[int], asked: list[int], others: list[int], most: int, most_tokens: int, seed: int
) -> None:
    current = Demonstrated("go", tuple(Example(f"q{i}", f"r{i}") for i in shown)).text
    judge, again = Judge(), Judge()
    avoid = frozenset({"go"})
    found = demonstrator(judge, most, most_tokens).propose(current, told(asked), told(others), avoid, seed)
    prompts = {prompt for prompt, _, _ in judge.asked} - {current}
    questions = {question for _, question, _ in judge.asked}
    for text in prompts:
        parts = read(text)
        assert parts.instruction == "go"
        assert (len(text) <= most_tokens, text in avoid) == (True, False)
        assert 0 < len(parts.questions) == len(parts.examples) <= most
        assert parts.questions <= {f"q{i}" for i in (*shown, *others)}
        assert all(example.answer == f"r{example.question[1:]}" for example in parts.examples)
        assert not parts.questions & questions, "no example is screened on itself"
        assert not (parts.questions - read(current).questions) & {f"q{i}" for i in asked}
    assert not questions & read(current).questions
    assert found.text == "" or (found.text in prompts and len(found.text) > len(current))
    assert found.screened == 0 or found.tokens == 7 or not judge.asked
    same = demonstrator(again, most, most_tokens).propose(current, told(asked), told(others), avoid, seed)
    assert (dataclasses.replace(same, seconds=0), again.asked) == (dataclasses.replace(found, seconds=0), judge.asked)


@pytest.mark.parametrize(("liking", "kind"), [(len, "add"), (lambda text: -len(text), "drop")])
def test_examples_are_added_and_dropped_as_the_policy_likes(liking: Callable[[str], float], kind: str) -> None:
    found = demonstrator(Judge(liking)).propose(SHOWN.text, told(range(4)), told(range(4, 16)), frozenset(), 1)
    assert read(found.text).instruction == "add one"
    assert (len(read(found.text).examples), found.origin) == ({"add": 3, "drop": 1}[kind], "demonstration")
    assert found.drawn >= found.screened > 1


def test_examples_are_swapped() -> None:
    judge = Judge(lambda text: len(read(text).examples) + ("two" in text) - ("Question: one" in text))
    full = demonstrator(judge, most=2)
    found = full.propose(SHOWN.text, told(range(4)), told(range(4, 16)), frozenset(), 1)
    assert [e in SHOWN.examples for e in read(found.text).examples] == [False, True]
    assert read(found.text).examples[0].question in {f"q{i}" for i in range(4, 16)}
    assert len(judge.asked) % (4 + 6) == 0, "all are screened on the same ten problems"


def test_d6_nothing_is_proposed_that_is_no_likelier_than_the_parent() -> None:
    for liking in (lambda text: 0.0, lambda text: text == "go"):
        found = demonstrator(Judge(liking)).propose("go", told(range(4)), told(range(4, 16)), frozenset(), 1)
        assert found.text == ""
        assert found.screened > 1


def test_p8_what_feedback_does_not_tell_is_neither_shown_nor_screened_on() -> None:
    judge = Judge()
    feedback, evidence = told([0], False) + told([1]), told(range(2, 10), False) + told([10, 11])
    found = demonstrator(judge).propose("go", feedback, evidence, frozenset(), 1)
    assert len(read(found.text).questions & {"q10", "q11"}) == 1 == len(read(found.text).examples)
    assert {question for _, question, _ in judge.asked} < {"q1", "q10", "q11"}


def test_reflection_rewrites_the_instruction_and_keeps_the_examples_that_fit() -> None:
    both = demonstrator(Judge(), most_tokens=len(SHOWN.text))
    assert both.reworded(SHOWN.text, "add 1") == SHOWN.text.replace("add one", "add 1")
    assert read(both.reworded(SHOWN.text, "do add one")) == Demonstrated("do add one", SHOWN.examples[:1])
    assert both.reworded("plain", "better") == "better"


@dataclass
class Writer:
    """A reflector that adds a letter, and what it was given."""

    given: list[str] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=lambda: {"calls": 3})

    def propose(
        self, current: str, feedback: Sequence[str], evidence: Sequence[str], avoid: frozenset[str], seed: int
    ) -> Proposal:
        self.given.append(current)
        return Proposal(f" {current}! ", 5, 4, 3)


def test_proposals_alternate_and_reflection_steps_in_where_no_example_helps() -> None:
    writer, judge = Writer(), Judge()
    both = Alternating(writer, demonstrator(judge))
    asks = (told(range(4)), told(range(4, 16)), frozenset[str](), 1)
    first, second = (both.propose("go", *asks) for _ in range(2))
    third = both.propose(second.text, *asks)
    assert (first.text, first.origin, second.origin) == ("go!", "reflection", "demonstration")
    assert third.text == second.text.replace("go", "go!", 1)
    assert writer.given == ["go", "go"], "reflection reads the instruction alone"
    judge.liking = lambda text: 0.0
    fourth = both.propose("go", *asks)
    assert (fourth.text, fourth.origin, fourth.drawn > 5, fourth.tokens) == ("go!", "reflection", True, 10)
    assert both.usage == {"calls": 3}


def spell(problem: Problem, response: str) -> Score:
    return exact()(problem, response)


def play(feedback: str, carried: Sequence[str] = ("x",)) -> FastRound:
    """A round in which a prompt answers the problems whose answer stands in it, and every second of the others."""
    problems = [Problem(str(i), "toy", f"q{i}", f"r{i}") for i in range(8)]

    def roll(pairs: Sequence[tuple[Prompt, Problem]]) -> list[Rollout]:
        found = []
        for prompt, problem in pairs:
            right = problem.question in prompt.text or (bool(read(prompt.text).examples) and int(problem.id) % 2 == 0)
            text = feedback_text(problem, "x", "nothing, correct" if right else "wrong")
            found.append(Rollout("fast", problem.id, prompt.id, 0, "x", (), (), float(right), text))
        return found

    params = FastParams(anchors=8, prompts=2, minibatch=3, budget=200, patience=6, feedback=feedback)
    reflector = Alternating(Writer(), demonstrator(Judge()))
    evolver = Evolver(roll, reflector, params.replace(max_prompt_tokens=400), len)
    population = Population(tuple(Prompt(text) for text in carried))
    return fast_round(evolver, population, problems, RoundPlan(2, 1, 200, 0))


def test_p11_no_prompt_is_scored_on_a_problem_that_it_shows() -> None:
    found = play("full")
    shown = [prompt for prompt in found.prompts.values() if prompt.origin == "demonstration"]
    assert shown
    for prompt in shown:
        numbers = {question[1:] for question in read(prompt.text).questions}
        scores = found.scores[prompt.id]
        assert scores == {str(i): float(i % 2 == 0) for i in range(8) if str(i) not in numbers}
        assert [found.prompts[parent].id for parent in prompt.parents] == list(prompt.parents)
        assert found.reflections[prompt.id]["feedback"] == ""
    best = found.population.best
    assert found.population.scores[best.id] == sum(found.scores[best.id].values()) / len(found.scores[best.id])
    assert best.origin == "demonstration" or read(best.text).examples


def test_p8_examples_are_problems_that_were_solved_where_feedback_is_the_reward() -> None:
    found = play("reward", ["x", "q1 q4 q6"])
    shown = {question for prompt in found.prompts.values() for question in read(prompt.text).questions}
    assert shown <= {f"q{i}" for i in (0, 1, 2, 4, 6)}, "only what some prompt had answered"


def test_d4_held_out_problems_leave_a_carried_prompt() -> None:
    def problem(question: str) -> Problem:
        return Problem(question, "toy", question, "2")

    domain = Domain("lab/reverse", (problem("a"),), (problem("one"),), (problem("b"),), spell)
    plain, old = Prompt("add one", (), "seed"), Prompt(SHOWN.text, ("p",), "demonstration", 3)
    kept, left = cleared(Population((plain, old)), domain).prompts
    assert kept == plain
    assert left == Prompt(Demonstrated("add one", SHOWN.examples[1:]).text, (old.id,), "demonstration", 3)
    assert cleared(Population((left,)), domain).prompts == (left,)


def test_the_right_answer_is_one_that_the_verifier_takes() -> None:
    problem = Problem("1", "toy", "q", "4")
    domain = Domain("lab/reverse", (problem,), (), (), spell)
    assert right_answer(domain, problem) == "4"
    tagged = dataclasses.replace(domain, verify=lambda p, response: Score(float(response.startswith("<answer>")), ""))
    assert right_answer(tagged, problem) is None
    pattern = dataclasses.replace(problem, verifier={"name": "regex"})
    assert right_answer(dataclasses.replace(domain, spec="jsonl:x.jsonl"), pattern) is None

    def unreadable(problem: Problem, response: str) -> Score:
        raise VerifierError("no number")

    assert right_answer(dataclasses.replace(domain, verify=unreadable), problem) is None


def test_d4_only_training_problems_become_examples_and_zero_switches_it_off(new_policy: Callable[[], Policy]) -> None:
    policy, writer = new_policy(), Writer()
    domain = load_domain("lab/reverse", SplitSizes(16, 16, 16), 0)
    assert demonstrating(writer, policy, domain, FastParams()) is writer
    params = FastParams(demonstrations=2, max_prompt_tokens=300)
    made = demonstrating(writer, policy, domain, params)
    assert isinstance(made, Alternating)
    likely = dataclasses.replace(made.demonstrator, likelihoods=Judge())
    feedback = {
        name: [feedback_text(problem, "x", "wrong") for problem in getattr(domain, name)]
        for name in ("train", "validation", "test")
    }
    for held in ("validation", "test"):
        assert likely.propose("go", feedback["train"], feedback[held], frozenset(), 0).text == ""
    found = read(likely.propose("go", feedback["test"], feedback["train"], frozenset(), 0).text)
    assert {(e.question, e.answer) for e in found.examples} <= {(p.question, p.answer) for p in domain.train}
    assert len(found.examples) == 2


def test_screening_is_the_likelihood_of_the_answer_and_its_end(new_policy: Callable[[], Policy]) -> None:
    policy = new_policy()
    (given,), tokens = answer_likelihoods(policy, [(SHOWN.text, "digits: 3 1", "1 3")])
    context = policy.encode([policy.messages(SHOWN.text, "digits: 3 1")])[0]
    answer = [*policy.tokenizer("1 3", add_special_tokens=False)["input_ids"], policy.tokenizer.eos_token_id]
    assert given == pytest.approx(answer_logprobs(policy.model, [context], [answer], policy.pad_id)[0])
    assert tokens == len(context) + len(answer)


def test_a_run_shows_training_problems_alone_and_records_their_origin(tmp_path: Path, tiny_model_dir: Path) -> None:
    params = params_from_dict(
        {
            "model": {"base": str(tiny_model_dir), "max_new_tokens": 4},
            "prepare": {"train": 16, "validation": 2, "test": 2},
            "slow": {"problems_per_step": 4, "group_size": 2},
            "fast": {
                **{"prompts": 2, "anchors": 12, "minibatch": 3, "budget": 120, "patience": 8},
                **{"max_prompt_tokens": 200, "demonstrations": 2},
            },
            "reflector": {"proposals": 2, "max_new_tokens": 4},
            "loop": {"cycles": 1, "steps_per_cycle": 3},
            "evaluate": {"samples": 1},
        }
    )
    learner = prepare(Job("gepa", "lab/reverse", 0, tmp_path / "run", params), Progress(1, 1, "gepa", "x", quiet=True))

    def verify(problem: Problem, answer: str) -> Score:  # an untrained model is right now and then
        reward = 1.0 if answer == problem.answer else mixed(problem, answer).reward
        return Score(reward, feedback_text(problem, answer, "by chance"))

    learner.switch(dataclasses.replace(learner.domain, verify=verify))
    for _ in rounds(learner):
        pass
    learner.books.close()
    prompts = [p for p in load_run(tmp_path / "run").prompts if p.origin == "demonstration"]
    assert prompts
    questions = {question for prompt in prompts for question in read(prompt.text).questions}
    assert questions <= {problem.question for problem in learner.domain.train}
    assert not questions & {problem.question for problem in (*learner.domain.validation, *learner.domain.test)}
    assert all(learner.policy.count_tokens(prompt.text) <= 200 for prompt in prompts)
    assert all(prompt.parents and prompt.feedback == "" for prompt in prompts)
