"""The closed loop's time line: every figure is counted from the newcomer's first request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.errors import RecordError
from fst.files import document
from fst.report.live import _labels, load_live
from fst.traffic.simulate import Exchanged, summary
from fst.traffic.timeline import as_dict, bin_width, bins, figures, happenings, shortfall

BEGAN = 1000.0


def exchange(at: float, domain: str, reward: float, release: str = "r1", status: int = 200) -> Exchanged:
    return Exchanged(BEGAN + at, at, 0, domain, status, reward, release, domain, status == 200, 0.01)


OLD = [exchange(i * 0.5, "old", 1.0) for i in range(20)]
BEFORE = [exchange(10 + i * 0.5, "new", 0.0) for i in range(40)]
AFTER = [exchange(30 + i * 0.5, "new", float(i % 10 > 0), "r2") for i in range(40)]
TRAFFIC = [*OLD, *BEFORE, *AFTER]
ALERTS = [{"at": BEGAN + 14, "kind": "new_domain", "domain": "letters"}]
STEPS: list[dict[str, Any]] = [
    {"at": BEGAN + 17, "event": "started"},
    {"at": BEGAN + 18, "event": "collected", "problems": 96},
    {"at": BEGAN + 28, "event": "judged", "verdict": "release", "reward": 0.94},
    {"at": BEGAN + 29, "event": "published", "bundle": "ab" * 32},
    {"at": BEGAN + 33, "event": "released", "bundle": "ab" * 32},
]


def test_figures_are_counted_from_the_newcomers_first_request() -> None:
    events = happenings(BEGAN, TRAFFIC, ALERTS, STEPS)
    found = figures(TRAFFIC, "new", events, BEGAN, attainable=0.95)
    assert (found["detected_s"], found["released_s"], found["swapped_s"]) == (4.0, 19.0, 20.0)
    assert (found["scored"], found["requests"], found["failed"]) == (40, 100, 0)
    assert (found["before"], found["after"], found["recovered"]) == (0.0, 0.9, True)
    assert [e.what for e in events] == [
        "appears", "appears", "alert", "started", "collected", "judged", "published", "swapped", "released",
    ]  # fmt: skip
    assert [e.says for e in events][2:6] == [
        "new domain: letters", "adaptation starts", "96 problems from traffic", "gate: release, held-out reward 0.940",
    ]  # fmt: skip


def test_four_fifths_of_the_attainable_reward_is_recovered_and_no_less() -> None:
    events = happenings(BEGAN, TRAFFIC, ALERTS, STEPS)
    assert figures(TRAFFIC, "new", events, BEGAN, attainable=0.9 / 0.8)["recovered"]
    assert not figures(TRAFFIC, "new", events, BEGAN, attainable=0.91 / 0.8)["recovered"]
    few = [*OLD, *BEFORE, *AFTER[:29]]
    assert not figures(few, "new", events, BEGAN, attainable=0.9)["recovered"], "too few to tell"


def test_answers_of_the_release_before_do_not_count_against_the_new_one() -> None:
    """Under load, requests that were in hand are still answered by the old release after the new one began."""
    late = [exchange(30.25 + i * 0.5, "new", 0.0) for i in range(20)]
    failed = exchange(50, "new", 0.0, "", status=503)
    traffic = [*TRAFFIC, *late, failed]
    found = figures(traffic, "new", happenings(BEGAN, traffic, [], []), BEGAN, attainable=0.95)
    assert found["after"] == round(36 / 41, 4), "a request that failed counts"


@given(st.floats(0, 2e9), st.floats(0.001, 100))
def test_what_the_new_release_answers_counts_whatever_the_times_are(began: float, edge: float) -> None:
    """The new release's first answer is where `after` begins, to the last bit of its time."""
    times = [edge + i * 0.37 for i in range(40)]
    new = [Exchanged(began + edge + at, at, 0, "new", 200, 1.0, "r2", "new", True, 0.01) for at in times]
    old = [Exchanged(began + i * edge / 40, 0.0, 0, "new", 200, 0.0, "r1", "new", True, 0.01) for i in range(40)]
    found = figures([*old, *new], "new", happenings(began, [*old, *new], [], []), began, attainable=1.0)
    assert (found["before"], found["after"], found["scored"]) == (0.0, 1.0, 40)


def test_without_a_new_release_nothing_recovered_and_failures_count() -> None:
    traffic = [*OLD, *BEFORE, exchange(31, "new", 0.0, "", status=503)]
    found = figures(traffic, "new", happenings(BEGAN, traffic, [], []), BEGAN, attainable=0.9)
    assert found["swapped_s"] is None
    assert found["after"] is None
    assert found["recovered"] is False
    assert found["failed"] == 1


def test_there_are_at_most_fifty_bins() -> None:
    assert bin_width(BEGAN, []) == 2.0
    assert bin_width(BEGAN, [exchange(99.0, "old", 1.0, "")]) == 2.0
    assert bin_width(BEGAN, [exchange(101.0, "old", 1.0, "")]) == 3.0
    hour = [exchange(second, "old", 1.0, "") for second in range(0, 3600, 7)]
    assert len(bins(BEGAN, hour, bin_width(BEGAN, hour))) == 50


@pytest.mark.parametrize(
    ("traffic", "alerts", "steps", "says"),
    [
        ([*OLD, *BEFORE], [], [], "no alert was raised about new"),
        ([*OLD, *BEFORE], ALERTS, [], "no adaptation began after the alert"),
        ([*OLD, *BEFORE], ALERTS, STEPS[:1], "no new release answered; the adaptation's last word: none"),
        (
            [*OLD, *BEFORE],
            ALERTS,
            [STEPS[0], {"at": BEGAN + 18, "event": "failed", "error": "DataError: too few"}],
            "no new release answered; the adaptation's last word: DataError: too few",
        ),
        (TRAFFIC, ALERTS, STEPS, "its reward is 0.9 where 0.95 is attainable"),
    ],
)
def test_a_loop_that_did_not_recover_says_how_far_it_came(
    traffic: list[Exchanged], alerts: list[dict[str, Any]], steps: list[dict[str, Any]], says: str
) -> None:
    events = happenings(BEGAN, traffic, alerts, steps)
    found = figures(traffic, "new", events, BEGAN, 0.95)
    assert shortfall({"newcomer": "new", "events": as_dict(events), "figures": found}) == says


def test_bins_and_summary_are_means_by_domain() -> None:
    points = bins(BEGAN, AFTER[:10])
    assert [(p["at"], p["requests"]) for p in points] == [(31.0, 4), (33.0, 4), (35.0, 2)]
    assert [p["reward"] for p in points] == [0.75, 1.0, 1.0]
    assert [(p["at"], p["requests"]) for p in bins(BEGAN, AFTER[:10], 4.0)] == [(30.0, 4), (34.0, 6)]
    rows = summary(TRAFFIC)
    assert rows["phase 0: new"]["requests"] == 80
    assert rows["phase 0: new"]["reward"] == pytest.approx(0.45)


def test_the_report_draws_and_tells_it(tmp_path: Path) -> None:
    events = happenings(BEGAN, TRAFFIC, ALERTS, STEPS)
    timeline = {
        "scenario": "s.yaml",
        "channel": "live",
        "began": BEGAN,
        "newcomer": "new",
        "events": as_dict(events),
        "bins": bins(BEGAN, TRAFFIC),
        "figures": figures(TRAFFIC, "new", events, BEGAN, 0.95),
    }
    file = tmp_path / "timeline.json"
    assert load_live(file) is None
    file.write_text(document(timeline))
    live = load_live(file)
    assert live is not None
    assert live.headline == (
        "20 s and 40 scored requests after its first one, the new domain was served by a release adapted to it: its "
        "reward recovered, from 0.0% to 90.0% of an attainable 95.0%. 100 requests, 0 failed."
    )
    assert _labels(timeline) == [(14.0, "alert"), (17.0, "adapting"), (29.0, "released, serving")]
    assert live.figure.png["light"][:4] == b"\x89PNG"
    assert live.figure.png["light"] != live.figure.png["dark"]
    file.write_text(json.dumps({"figures": {}}))
    with pytest.raises(RecordError, match=r"timeline\.json is no time line"):
        load_live(file)
