"""The drift statistics. D1 the figures are those that thresholds were calibrated with before the statistics came from
scipy, to 1e-9; D2 so are the thresholds; D3 Evidently's reports show the same figures; D4 a distance is 0 for equal
columns and grows with a shift; D5 an answer that was cut off is a failure in the reference as in live traffic, in
releases that do not record it too; D6 one that a client's own, lower limit cut off says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fst.config import DriftParams
from fst.monitoring.calibration import calibrate
from fst.monitoring.signals import Reference, columns_of, distance, mix_distance, reference_of
from fst.traffic.log import Exchange, Request

STEPS = np.arange(200) * 7 % 13 / 13
COIN = np.array([0.0, 1.0, 1.0] * 40)
EVEN = np.arange(100) * 11 % 17 / 17
TOKENS = np.array([3.0, 3, 4, 5, 6, 6, 7])
# (window, reference, distance as evidently 0.7.23's `wasserstein` test gave it)
COLUMNS = [
    (EVEN, STEPS, 0.08597943432041154),
    (np.arange(10) % 3 / 3, COIN, 0.7778174593052023),
    (np.array([1.0]), COIN, 0.7071067811865475),
    (np.array([4.0, 5, 9]), np.full(30, 6.0), 1999.9999999999998),  # a constant reference
    (STEPS * 2 + 0.1, STEPS, 1.9310855430942067),
    (np.array([3.0, 4, 4, 5, 12, 30]), TOKENS, 3.530090432487312),
]
# (window, the windows before, distance as evidently 0.7.23's `jensenshannon` test gave it)
MIXES = [
    ("a" * 60 + "b" * 40, "a" * 150 + "b" * 50, 0.11361171846241168),
    ("a" * 5, "b" * 7, 0.8325546111576977),
    ("abuc", "a" * 9 + "d", 0.6261669398077648),
    ("a", "aa", 0.0),
    ("", "a", 0.0),
    ("a", "", 0.0),
]


@pytest.mark.parametrize(("window", "reference", "expected"), COLUMNS)
def test_d1_columns_are_as_far_apart_as_before(window: Any, reference: Any, expected: float) -> None:
    assert distance(window, reference) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("window", "before", "expected"), MIXES)
def test_d1_mixes_are_as_far_apart_as_before(window: str, before: str, expected: float) -> None:
    assert mix_distance(list(window), list(before)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_d2_thresholds_are_as_before() -> None:
    reference = Reference({("", "novelty"): STEPS, ("digits", "reward"): COIN}, {"digits": ()})
    found = calibrate(reference, DriftParams(resamples=100)).values
    assert {key: [limits[size] for size in (10, 50, 200)] for key, limits in found.items()} == {
        "/novelty": pytest.approx([0.9052177214572507, 0.4156594435100954, 0.2691599675985339], rel=1e-9),
        "digits/reward": pytest.approx([0.7044126450428665, 0.4586385120887619, 0.29370653297338406], rel=1e-9),
    }


@pytest.mark.slow
def test_d3_evidently_shows_the_same_figures() -> None:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    def shown(before: Any, now: Any, definition: DataDefinition, method: str) -> float:
        current, reference = (Dataset.from_pandas(pd.DataFrame({"x": list(x)}), definition) for x in (now, before))
        metrics = Report([ValueDrift(column="x", method=method)]).run(current, reference).dict()["metrics"]
        return float(metrics[0]["value"])

    numbers, names = DataDefinition(numerical_columns=["x"]), DataDefinition(categorical_columns=["x"])
    for now, before in ((EVEN, STEPS), (COIN[:31], COIN), (STEPS * 2, STEPS)):
        assert distance(now, before) == pytest.approx(shown(before, now, numbers, "wasserstein"), rel=1e-9)
    for mix, past, _ in MIXES[:3]:
        expected = shown(past, mix, names, "jensenshannon")
        assert mix_distance(list(mix), list(past)) == pytest.approx(expected, rel=1e-9)


def test_d4_a_distance_is_zero_for_equal_columns_and_grows_with_a_shift() -> None:
    assert distance(STEPS, STEPS) == 0.0
    shifts = [distance(STEPS + shift, STEPS) for shift in (0.1, 0.2, 0.4)]
    assert shifts == pytest.approx([shift / STEPS.std() for shift in (0.1, 0.2, 0.4)], rel=1e-9)


MOST = 16  # tokens of an answer


def row(number: int, recorded: bool) -> dict[str, Any]:
    """A row of a reference in which every fifth answer was cut off."""
    cut = number % 5 == 0
    facts = {"question": f"q {number % 50}", "response": "a", "reward": 1.0, "tokens": MOST if cut else 6}
    return {**facts, "finish": "length" if cut else "stop"} if recorded else facts


def answered(tokens: int, finish: str, response: str = "a") -> Exchange:
    facts = ("router", 0.1, "r", "production", "p", "q", response, (9, tokens), 0.1, finish, 200)
    return Exchange(Request("i", 0.0, "t", "digits", *facts), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("recorded", [True, False])
def test_d5_cut_off_answers_count_alike_on_both_sides(recorded: bool) -> None:
    reference = reference_of({"digits": {"rows": [row(i, recorded) for i in range(200)]}}, MOST)
    same = [answered(MOST, "length") if i % 5 == 0 else answered(6, "stop") for i in range(100)]
    more = [answered(MOST, "length") if i % 2 == 0 else answered(6, "stop") for i in range(100)]
    limits = calibrate(reference, DriftParams(resamples=200))
    for signal in ("failure", "length"):
        threshold = limits.of("digits", signal, 100)
        assert threshold is not None
        shifts = [distance(columns_of(w, MOST)["digits", signal], reference.columns["digits", signal])
                  for w in (same, more)]  # fmt: skip
        assert shifts[0] < threshold < shifts[1], signal
    assert columns_of(same, MOST)["digits", "failure"].mean() == 0.2
    assert reference.columns["digits", "failure"].mean() == pytest.approx(41 / 202)  # a 0 and a 1 are added


def test_d6_a_clients_own_limit_says_nothing() -> None:
    window = [answered(4, "length"), answered(6, "stop"), answered(MOST, "length"), answered(1, "stop", " ")]
    found = columns_of(window, MOST)
    assert found["digits", "length"].tolist() == [6, MOST, 1]
    assert found["digits", "failure"].tolist() == [0, 1, 1]
    assert columns_of(window)["digits", "failure"].tolist() == [1, 0, 1, 1], "the release does not say its limit"
