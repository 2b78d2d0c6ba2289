"""Files of JSON lines. L1 read back, they give the same objects in the opposite order, wherever the blocks end; L2 what
was cut off is skipped, from either end; L3 nothing is read beyond what was asked for."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst import lines
from fst.lines import ends_in_a_line, read_back, read_lines, read_numbered_lines

CONTENT = st.lists(st.sampled_from([b'{"a": 1}', '{"b": "é✓"}'.encode(), b"", b"[1]", b'{"torn', b"\xff", b"7"]))


@given(content=CONTENT, whole=st.booleans(), block=st.integers(1, 40))
def test_l1_l2_back_is_the_opposite_of_forth(content: list[bytes], whole: bool, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(lines, "BLOCK", block)
        path = Path(folder) / "lines.jsonl"
        path.write_bytes(b"\n".join(content) + (b"\n" if whole else b""))
        objects = [json.loads(line) for line in content if line.startswith((b'{"a', b'{"b'))]
        assert list(read_lines(path)) == objects
        assert list(read_back(path)) == objects[::-1]
        assert ends_in_a_line(path) == (whole or not content or not any(content) or content[-1] == b"")


def test_l1_numbers_count_every_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"torn\n{"a": 2}')
    assert list(read_numbered_lines(path)) == [(1, {"a": 1}), (4, {"a": 2})]


def test_l2_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    assert list(read_lines(path)) == list(read_back(path)) == []
    assert ends_in_a_line(path)


def test_l3_the_end_of_a_file_too_large_to_read(tmp_path: Path) -> None:
    """A terabyte without a line in it, which takes no room on the disk, and two lines."""
    path = tmp_path / "lines.jsonl"
    with path.open("wb") as file:
        file.truncate(2**40)
        file.seek(2**40)
        file.write(b'\n{"a": 1}\n{"a": 2}\n')
    back = read_back(path)
    assert [next(back), next(back)] == [{"a": 2}, {"a": 1}]
    assert ends_in_a_line(path)
