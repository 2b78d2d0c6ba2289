"""Folders and documents that are there whole or not at all:

f1  a folder takes its place whole, the old one is gone, and nothing else is left; when filling it fails, the old one
    stays and nothing else
f2  several may replace one folder at once: each time somebody's whole folder stands there
f3  when the new folder cannot take its place, the old one comes back
f4  what a killed process left is removed when it is old, and only then
f5  equal values give equal bytes, whatever their order; a number that JSON has not is refused
"""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst import files
from fst.files import document, is_inner_path, replacing


def fill(folder: Path, mark: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / mark).write_text(mark, encoding="utf-8")
    (folder / "mark").write_text(mark, encoding="utf-8")


def content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()}


def test_f1_a_folder_takes_its_place_whole(tmp_path: Path) -> None:
    place = tmp_path / "new parent" / "a*[b]"
    for mark in ("one", "two"):
        with replacing(place) as folder:
            fill(folder, mark)
            assert not place.exists() or content(place)["mark"] == "one", "the old one stands until then"
        assert content(place) == {"mark": mark, f"deep/{mark}": mark}
        assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("there", [True, False])
def test_f1_when_filling_fails_nothing_changes(tmp_path: Path, there: bool) -> None:
    place = tmp_path / "place"
    if there:
        place.mkdir()
        fill(place, "old")

    def fail() -> None:
        with replacing(place) as folder:
            fill(folder, "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == ([place] if there else [])
    assert not there or content(place) == {"mark": "old", "deep/old": "old"}


def test_f2_several_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    place, failed = tmp_path / "place", []
    barrier = threading.Barrier(6)

    def replace(mark: str) -> None:
        barrier.wait()
        try:
            for _ in range(5):
                with replacing(place) as folder:
                    fill(folder, mark)
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=replace, args=(f"m{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    mark = content(place)["mark"]
    assert content(place) == {"mark": mark, f"deep/{mark}": mark}
    assert list(tmp_path.iterdir()) == [place]


def test_f3_when_the_new_folder_cannot_take_its_place_the_old_one_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    fill(place, "old")
    with pytest.raises(FileNotFoundError):
        files._take_place(tmp_path / "nowhere", place)
    assert content(place) == {"mark": "old", "deep/old": "old"}
    assert list(tmp_path.iterdir()) == [place]


def test_f4_what_a_killed_process_left_goes_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, other = tmp_path / ".place.0123.tmp", tmp_path / ".elsewhere.0123.tmp"
    for folder in (left, other):
        folder.mkdir()
        fill(folder, "half")
    with replacing(tmp_path / "place") as folder:
        fill(folder, "one")
    assert left.exists()
    monkeypatch.setattr(files, "ABANDONED_SECONDS", -1)
    with replacing(tmp_path / "place") as folder:
        assert not left.exists()
        fill(folder, "two")
    assert other.exists(), "what belongs to another folder is another's"
    assert content(tmp_path / "place")["mark"] == "two"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé✓\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcé", max_size=3), JSON, max_size=5))
def test_f5_a_document_depends_on_its_values_alone(values: dict[str, Any]) -> None:
    text = document(values)
    assert json.loads(text) == values
    assert document(dict(reversed(values.items()))) == text
    assert document(json.loads(text)) == text
    assert text.endswith("\n")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_f5_a_number_that_json_has_not_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        document({"reward": number})


def test_f5_an_inner_path_has_no_way_out() -> None:
    assert all(is_inner_path(p) for p in ("a", "a.json", "adapter/x_y-z.safetensors", "_/0", "a..b"))
    assert not any(
        is_inner_path(p) for p in ("", ".", "..", "/a", "a/", "a//b", "a/../b", ".a", "a/.b", "a\\b", "ä", "a\n")
    )
