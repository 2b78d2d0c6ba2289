"""Makes a Verifier of a user's function. There are two contracts, told apart by the function's parameters:

    (question, answer, response, meta) -> reward, or (reward, what differs)
    (prompts, completions, **columns) -> [reward or None, one a completion]        a reward function of TRL

The second is that of TRL's GRPOTrainer on conversations: `prompts` and `completions` are lists of messages, or texts
where `completions` is annotated as `list[str]`. The columns are the right answer, as `answer` and `solution`, and every
key of the problem's meta; a function gets only those that it names. Unless the domain sets how answers are found, it
reads the response as it was sampled, including thinking. What it reports with `log_extra` and `log_metric` becomes
feedback. One problem is scored at a time; a None, with which TRL leaves out an example, counts as 0.

The rewards of both are in [0, 1].
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fst.data.code import is_reward_function
from fst.data.scoring import CORRECT, RAISED, feedback_text, verdict
from fst.data.types import Problem, Score, Verifier
from fst.errors import VerifierError

Function = Callable[..., Any]
_TEXTS = ("list[str]", "List[str]", "Sequence[str]")


def verifier_of_function(function: Function) -> Verifier:
    """Make a Verifier of a function with one of the two contracts. If the function raises an exception, the reward is 0
    and the feedback names the exception. Raises VerifierError for an asynchronous function; the Verifier raises it if
    the result is not a score, or if a reward function requires a column that the problem does not have."""
    if inspect.iscoroutinefunction(function):
        raise VerifierError(f"{_name(function)}: an async function cannot be a verifier; make it a plain one")
    ask = _in_batch(function) if is_reward_function(function) else _one(function)

    def verify(problem: Problem, response: str) -> Score:
        try:
            reward, differs = ask(problem, response)
        except VerifierError:
            raise
        except Exception as exc:
            return replace(verdict(problem, response, False, f"{RAISED}{type(exc).__name__}: {exc}"), read=response)
        if not isinstance(reward, (int, float)) or not 0.0 <= reward <= 1.0 or not isinstance(differs, str | None):
            raise VerifierError(
                f"problem {problem.id!r}: the verifier returned {reward if differs is None else (reward, differs)!r}; "
                "it must return a reward from 0 to 1, or a pair (reward, text)"
            )
        differs = differs or (CORRECT if reward == 1.0 else f"reward {reward:g} of 1")
        told = replace(problem, feedback="") if reward == 1.0 else problem
        return Score(float(reward), feedback_text(told, response, differs), response)

    return verify


def _one(function: Function) -> Callable[[Problem, str], tuple[Any, Any]]:
    def ask(problem: Problem, response: str) -> tuple[Any, Any]:
        result = function(problem.question, problem.answer, response, problem.meta)
        return result if isinstance(result, tuple) and len(result) == 2 else (result, None)

    return ask


def _in_batch(function: Function) -> Callable[[Problem, str], tuple[Any, Any]]:
    """Adapt a reward function to be called on one problem."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind in named]
    texts = str(parameters["completions"].annotation).rpartition(".")[2] in _TEXTS

    def ask(problem: Problem, response: str) -> tuple[Any, Any]:
        told: dict[str, Any] = {}
        columns = {"answer": problem.answer, "solution": problem.answer, **problem.meta}
        given: dict[str, Any] = {
            **{name: [value] for name, value in columns.items()},
            "prompts": [problem.question if texts else [{"role": "user", "content": problem.question}]],
            "completions": [response if texts else [{"role": "assistant", "content": response}]],
            "log_extra": lambda column, values: told.update({column: values[0]}),
            "log_metric": lambda name, value: told.update({name: value}),
        }
        if missing := [name for name in required if name not in given]:
            raise VerifierError(
                f"problem {problem.id!r}: {_name(function)} asks for {', '.join(missing)}; give the problem that key "
                'in its "meta", or the parameter a default'
            )
        found = function(**{name: value for name, value in given.items() if takes_all or name in parameters})
        if not isinstance(found, list | tuple) or len(found) != 1:
            raise VerifierError(f"{_name(function)} returned {found!r} for one completion; it must return [reward]")
        reward = 0.0 if found[0] is None else found[0]
        parts = ["this example does not count"] if found[0] is None else []
        parts += [f"{name}: {value}" for name, value in told.items() if value is not None]
        return reward, "; ".join([f"reward {reward:g} of 1", *parts]) if parts and reward != 1.0 else None

    return ask


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__)
