"""Problems of the library reasoning_gym, scored by its own scorers. Only this file imports it."""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fst.data.answers import Part, alone
from fst.data.dealing import deal
from fst.data.numbers import first_number, last_number
from fst.data.scoring import CORRECT, feedback_text
from fst.data.types import Problem, Score, Splits, SplitSizes, Verifier
from fst.errors import DataError, UnknownDomain
from fst.extras import require

NAME = "reasoning_gym"  # of the family and of the verifier

# Datasets are drawn in parts of this many, each with a seed of its own: a few prepare all problems at once.
_PART = 1_000
_ANY_SOLUTION = "any correct solution"
_TRIED = 8  # entries, to learn whether a scorer needs more than their answers


def load_dataset(spec: str, sizes: SplitSizes, seed: int) -> Splits:
    """Draw problems of a dataset. `meta` has what the scorer needs: the entry's metadata and its own answer, which is
    None if the problem has many solutions.

    Raises UnknownDomain for a name the library does not have, DataError for a dataset that cannot be made with its
    defaults, MissingDependency without the library.
    """
    name = spec.removeprefix(f"{NAME}/")

    def draws(seed_text: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for part in itertools.count():
            for entry in _dataset(name, f"{seed_text}|{part}", _PART):
                answer = entry["answer"]
                meta = {"answer": answer, "metadata": entry["metadata"]}
                yield entry["question"], _ANY_SOLUTION if answer is None else str(answer), meta

    return deal(spec, draws, sizes, seed, source=name)


def named_scorer(spec: str) -> dict[str, Any]:
    """Return the verifier of a spec, as name and options."""
    return {"name": NAME, "dataset": spec.removeprefix(f"{NAME}/")}


def narrow(part: Part, options: Mapping[str, Any]) -> str:
    """Extract only the answer, since the library's scorers give partial rewards by length and would count the words
    around it: the number, if the right answer is one; the whole response if the problem has many solutions."""
    if part.want == _ANY_SOLUTION and not part.marked:
        return part.text
    want = last_number(part.want) if re.fullmatch(r"[-+]?[\d,]*\.?\d+", part.want.strip()) else None
    number = (first_number if part.marked else last_number)(part.text) if want else None
    if want is None or number is None:
        return alone(part, options)
    return part.want if number.near(want, 1e-9, 0) and not number.percent else number.text


@functools.lru_cache(maxsize=64)
def answer_suffices(dataset: str) -> bool:
    """Whether the library's scorer of a dataset needs only question and right answer, which is all that live traffic
    has. Tested on some entries with right, wrong and nearly right answers: the scores must be the same with and without
    the metadata. False for a name that the library does not have. Raises MissingDependency without the library."""
    try:
        made = _dataset(dataset, "tried", _TRIED)
    except (UnknownDomain, DataError):
        return False
    entries = [made[i] for i in range(_TRIED)]
    given = [text for entry in entries for text in (str(entry["answer"]), f"{entry['answer']} or so")]
    try:
        return all(
            entry["answer"] is not None
            and made.score_answer(text, entry) == made.score_answer(text, _entry(entry["question"], entry["answer"]))
            for entry in entries
            for text in given
        )
    except Exception:  # of a scorer that misses the metadata
        return False


def scorer(dataset: str = "") -> Verifier:
    """Make a verifier of the library's scorer of a dataset. It reads the last `<answer>` element, or else everything,
    and may give partial rewards. A problem without the library's metadata is scored by its answer, see
    `answer_suffices`. Raises as `load_dataset` does."""
    made = _dataset(dataset, "scorer", 1)
    from reasoning_gym.utils import extract_answer

    def verify(problem: Problem, response: str) -> Score:
        answer = extract_answer(response)
        answer = response.strip() if answer is None else answer
        entry = {**_entry(problem.question, problem.answer), **problem.meta}
        try:
            reward = float(made.score_answer(answer, entry))
        except Exception as exc:
            return Score(0.0, feedback_text(problem, response, f"the output cannot be read: {type(exc).__name__}"))
        reward = min(max(reward, 0.0), 1.0) if math.isfinite(reward) else 0.0
        differs = CORRECT if reward == 1.0 else f"the output earns {reward:g} of 1"
        return Score(reward, feedback_text(problem, response, differs))

    return verify


def _entry(question: str, answer: Any) -> dict[str, Any]:
    return {"question": question, "answer": str(answer), "metadata": {}}


def _dataset(name: str, seed_text: str, size: int) -> Any:
    require("reasoning-gym")
    import reasoning_gym  # noqa: F401 - its import registers the datasets
    from reasoning_gym.factory import DATASETS, create_dataset

    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=5) or sorted(DATASETS)[:5]
        raise UnknownDomain(
            f"reasoning_gym has no dataset {name!r}; close: {', '.join(close)} ({len(DATASETS)} in all)"
        )
    seed = int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:4], "big") // 2
    try:
        return create_dataset(name, size=size, seed=seed)
    except (TypeError, ValueError, AssertionError) as exc:
        raise DataError(f"reasoning_gym cannot make its dataset {name!r} with its defaults: {exc}") from exc
