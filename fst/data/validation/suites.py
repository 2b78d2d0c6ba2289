"""The suites: expectations of the data, each with a sentence. A `critical` one ends the pipeline if it fails, a
`warning` does not. The columns are made in fst/data/validation/tables.py.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fst.config import ValidateParams
from fst.data.types import SPLITS
from fst.data.validation.gx import library

CRITICAL, WARNING = "critical", "warning"
CHANNELS = ("train", "fast", "eval")
# Log-probabilities are rounded sums of floats: a certain token may come out a little above zero.
TOLERANCE = 1e-3


class _Suite:
    """Expectations of Great Expectations, by their short forms."""

    def __init__(self) -> None:
        self._known = library().expectations

    def _expect(self, what: str, sentence: str, severity: str = CRITICAL, **facts: Any) -> Any:
        return getattr(self._known, f"Expect{what}")(description=sentence, severity=severity, **facts)

    def rows(self, least: int, sentence: str) -> Any:
        return self._expect("TableRowCountToBeBetween", sentence, min_value=least)

    def nothing_in(self, column: str, sentence: str) -> Any:
        """Expect a column of complaints about rows to be empty."""
        return self._expect("ColumnValuesToBeNull", sentence, column=column)

    def among(self, column: str, values: Collection[str], sentence: str) -> Any:
        return self._expect("ColumnValuesToBeInSet", sentence, column=column, value_set=sorted(values))

    def unique(self, column: str, sentence: str) -> Any:
        return self._expect("ColumnValuesToBeUnique", sentence, column=column)

    def filled(self, column: str, sentence: str) -> Any:
        return self._expect("ColumnValueLengthsToBeBetween", sentence, column=column, min_value=1)

    def between(
        self, column: str, low: float | None, high: float | None, sentence: str, severity: str = CRITICAL
    ) -> Any:
        bounds = {"min_value": low, "max_value": high}
        return self._expect("ColumnValuesToBeBetween", sentence, severity, column=column, **bounds)

    def equal(self, column: str, other: str, sentence: str) -> Any:
        pair = {"column_A": column, "column_B": other, "ignore_row_if": "either_value_is_missing"}
        return self._expect("ColumnPairValuesToBeEqual", sentence, **pair)

    def above(self, column: str, other: str, sentence: str) -> Any:
        return self._expect("ColumnPairValuesAToBeGreaterThanB", sentence, WARNING, column_A=column, column_B=other)


def raw_suite() -> list[Any]:
    """The suite of a user's problem file."""
    s = _Suite()
    return [
        s.rows(1, "The file holds at least one line."),
        s.nothing_in("unreadable", "Every line is one JSON object."),
        s.nothing_in("unknown_keys", "Every key is one that a problem has; all others belong into meta."),
        *(s.among(f"{key}_kind", ["text"], f"Every problem has its {key}, and it is a text.") for key in _TEXTS),
        *(s.filled(f"{key}_text", f"No {key} is empty.") for key in _TEXTS),
        s.unique("id", "Every id is used once."),
        s.among("meta_kind", ["object"], "Every meta is an object."),
        s.among("feedback_kind", ["text"], "Every feedback is a text."),
        s.among("split", SPLITS, "Every split is train, validation or test."),
        s.nothing_in("no_split", "Every problem names its split, or none does."),
        s.nothing_in("elsewhere", "No question can end up in two splits."),
        s.nothing_in("verifier", "Every verifier exists, takes its options and can read the reference answer."),
        s.between("reward", 1, 1, "Every reference answer earns the full reward."),
    ]


def prepared_suite(room: int | None) -> list[Any]:
    """The suite of prepared data's lines; `room` is the number of tokens that a question may have."""
    s = _Suite()
    fits = "Every question fits the model's context"
    return [
        s.rows(1, "There is at least one problem."),
        s.nothing_in("unreadable", "Every line is one JSON object."),
        s.nothing_in("as_written", "Every line has the fields of a prepared problem."),
        *(s.filled(f"{key}_text", f"No {key} is empty.") for key in _TEXTS),
        s.unique("id", "Every id is used once, in all splits together."),
        s.among("split", SPLITS, "Every split is train, validation or test."),
        s.equal("split", "of_file", "Every problem lies in the file of its split."),
        s.nothing_in("elsewhere", "No question is in two splits."),
        s.nothing_in("verifier", "Every verifier exists, takes its options and can read the reference answer."),
        s.between("reward", 1, 1, "The domain's own verifier gives every reference answer the full reward."),
        *([] if room is None else [s.between("tokens", None, room, f"{fits}: at most {room} tokens.", WARNING)]),
    ]


def sizes_suite(params: ValidateParams) -> list[Any]:
    """The suite of prepared data's splits."""
    s = _Suite()
    return [
        s.between("problems", params.min_problems, None, f"Every split has at least {params.min_problems} problems."),
        s.equal("problems", "announced", "Every split has as many problems as domain.json says."),
    ]


def balance_suite(noun: str, most: float) -> list[Any]:
    """The suite of the most common answer, or slice, of every split."""
    s = _Suite()
    return [s.between("share", 0, most, f"No {noun} makes up more than {100 * most:g}% of a split.", WARNING)]


def rollout_suite(known_ids: Collection[str] | None) -> list[Any]:
    """The suite of a run's rollouts; `known_ids` are the ids of the problems that it may have asked."""
    s = _Suite()
    known = "Every rollout answers a problem of the domain."
    return [
        s.rows(1, "There is at least one rollout."),
        s.among("channel", CHANNELS, f"Every channel is one of {', '.join(CHANNELS)}."),
        s.among("id_kind", ["text"], "Every rollout names its problem."),
        *([] if known_ids is None else [s.among("id", known_ids, known)]),
        s.among("reward_kind", ["number"], "Every reward is a finite number."),
        s.between("reward", 0, 1, "Every reward is between 0 and 1."),
        s.among("tokens_kind", ["number"], "Every rollout has the number of its answer's tokens."),
        s.between("tokens", 1, None, "No answer is without tokens."),
        s.among("logprob_kind", ["number"], "The log-probability of every answer is a finite number."),
        s.between("logprob", None, TOLERANCE, "No log-probability is above zero."),
        s.among("feedback_kind", ["text"], "Every feedback is a text."),
    ]


def channel_suite() -> list[Any]:
    """The suite of a run's channels: if all rewards are equal, nothing can be learnt."""
    s = _Suite()
    return [s.above("highest", "lowest", "The rewards of a channel differ.")]


_TEXTS = ("id", "question", "answer")
