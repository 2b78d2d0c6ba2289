"""The traffic log. L1 what is read is what was written, in order, however it is cut into segments; L2 reading on from a
position gives the rest, each record once; L3 a line that is being written is left for later, one that a crash cut off
is skipped; L4 segments end at a size and at an age; L5 the old ones go, the open one never; L6 a redactor sees every
text before the disk does; L7 a request has its latest feedback; L8 what is no record is named with its file."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.errors import DataError
from fst.traffic.log import (
    Exchange,
    Feedback,
    LogLimits,
    Position,
    Record,
    Request,
    TrafficLog,
    exchanges,
    read,
    segments,
)

FACTS: dict[str, Any] = {
    "tenant": "t",
    "domain": "d",
    "routed": "router",
    "novelty": 0.25,
    "release": "r",
    "variant": "production",
    "prompt": "p",
    "tokens": (3, 4),
    "seconds": 0.5,
    "finish": "stop",
    "status": 200,
}


def request(number: int, question: str = "q", response: str = "a", at: float = 0.0) -> Request:
    return Request(id=f"i{number}", at=at, question=question, response=response, **FACTS)


def feedback(number: int, reward: float | None = 1.0, answer: str | None = "a", comment: str = "") -> Feedback:
    return Feedback(f"i{number}", 0.0, "t", reward, answer, comment, "client")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RECORD = st.builds(request, st.integers(0, 9), TEXTS, TEXTS) | st.builds(
    feedback, st.integers(0, 9), st.none() | st.floats(0, 1), st.none() | TEXTS, TEXTS
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(RECORD, st.sampled_from(["", "read", "restart"])), max_size=12), st.integers(1, 2000))
def test_l1_l2_l4_what_is_written_is_read_once_and_in_order(steps: list[tuple[Record, str]], size: int) -> None:
    records = [record for record, _ in steps]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log, found, position = TrafficLog(folder, LogLimits(segment_bytes=size)), [], Position()
        for record, then in steps:
            log.append(record)
            if then == "read":
                more, position = read(folder, position)
                found += more
            elif then == "restart":
                log.close()
                log = TrafficLog(folder, LogLimits(segment_bytes=size))
        log.close()
        more, position = read(folder, position)
        assert found + more == records == read(folder)[0]
        assert read(folder, position) == ([], position)
        for path in segments(folder).values():
            assert sum(map(len, path.read_bytes().splitlines(keepends=True)[:-1])) < size, "one line too many"


def test_l3_a_line_in_the_making_waits_and_one_cut_off_is_skipped(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, LogLimits())
    log.append(request(1))
    (segment,) = segments(tmp_path).values()
    whole = segment.read_bytes()
    with segment.open("ab") as file:
        file.write(whole[:20])
        file.flush()
        found, position = read(tmp_path)
        assert found == [request(1)]
        assert position == Position(1, len(whole))
        file.write(whole[20:])
    assert read(tmp_path, position)[0] == [request(1)]
    with segment.open("ab") as file:
        file.write(whole[:-5])  # and then the process was killed
    after = TrafficLog(tmp_path, LogLimits())
    after.append(request(2))
    assert [record.id for record in read(tmp_path)[0]] == ["i1", "i1", "i2"]
    log.close()
    after.close()


def test_l4_a_segment_ends_at_an_age(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, LogLimits(segment_seconds=0.05))
    log.append(request(1))
    log.append(request(2))
    time.sleep(0.06)
    log.append(request(3))
    log.close()
    assert [path.read_bytes().count(b"\n") for path in segments(tmp_path).values()] == [2, 1]


def test_l5_old_segments_go_and_positions_in_them_still_read_on(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, LogLimits(segment_bytes=1, retention_seconds=100))
    for number in range(4):
        log.append(request(number))
    _, position = read(tmp_path)
    old = time.time() - 101
    for path in segments(tmp_path).values():
        os.utime(path, (old, old))
    log.append(request(4))  # a new segment: the old ones go
    assert [record.id for record in read(tmp_path)[0]] == ["i4"]
    assert [record.id for record in read(tmp_path, position)[0]] == ["i4"]
    os.utime(next(iter(segments(tmp_path).values())), (old, old))
    assert log.prune() == [], "the open one stays"
    log.close()
    assert list(segments(tmp_path)) == [5]


def test_l6_nothing_that_the_redactor_takes_out_is_on_the_disk(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, LogLimits(), lambda text: text.replace("4111-1111", "[card]"))
    log.append(request(1, "my card is 4111-1111", "4111-1111, thanks"))
    log.append(feedback(1, None, "4111-1111", "why 4111-1111?"))
    log.close()
    (segment,) = segments(tmp_path).values()
    assert b"4111" not in segment.read_bytes()
    asked, said = read(tmp_path)[0]
    assert isinstance(asked, Request)
    assert isinstance(said, Feedback)
    assert (asked.question, asked.response) == ("my card is [card]", "[card], thanks")
    assert (said.answer, said.comment) == ("[card]", "why [card]?")


def test_l7_the_latest_feedback_counts() -> None:
    found = list(exchanges([request(1), feedback(1, 0.0), request(2), feedback(1, 1.0), feedback(7)]))
    assert found == [Exchange(request(1), feedback(1, 1.0)), Exchange(request(2), None)]


@pytest.mark.parametrize("line", ["{}", "[]", '{"kind":"request"}', '{"kind":"odd","id":"1"}', "\\x00"])
def test_l8_what_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "traffic-00000003.jsonl"
    path.write_text(line + "\n")
    (tmp_path / "notes.txt").write_text("not a segment")
    with pytest.raises(DataError, match=r"traffic-00000003\.jsonl: a line is no record of traffic.*move the segment"):
        read(tmp_path)


def test_l1_unicode_line_separators_do_not_cut_a_record(tmp_path: Path) -> None:
    log = TrafficLog(tmp_path, LogLimits())
    texts = ["a\u2028b", "a\x85b", "a\r\nb", "a\x0bb\x1cc"]
    for number, text in enumerate(texts):
        log.append(request(number, text))
    log.close()
    asked = [record.question for record in read(tmp_path)[0] if isinstance(record, Request)]
    assert asked == texts
