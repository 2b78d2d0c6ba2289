"""Alerts that wait. O1 an alert is open until an adaptation has begun about it or about a later one; O2 what reaches
nobody is sent again, after seconds, and what was heard after longer and longer waits, until it has begun; O3 a watcher
that is killed between any two of its writes loses no alert and raises none twice; O4 the cool-down begins with the
adaptation, and a new release ends it; O5 people are told of every alert, by the next watcher if need be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fst.lines import append_line, read_lines
from fst.monitoring.outbox import ADAPTATIONS, ALERTS, Outbox, open_alerts
from fst.store.bundle import write_bundle
from support.watched import Scene


def alert(folder: Path, domain: str, at: float, channel: str = "prod") -> None:
    append_line(folder / ALERTS, {"at": at, "since": at - 1, "domain": domain, "channel": channel})


def step(folder: Path, domain: str, about: float, event: str = "started", at: float = 0.0) -> None:
    append_line(folder / ADAPTATIONS, {"at": at, "alert": about, "domain": domain, "channel": "prod", "event": event})


def waiting(folder: Path, channel: str = "prod") -> list[tuple[str, float]]:
    return [(found["domain"], found["at"]) for found in open_alerts(folder, channel)]


def test_o1_open_until_an_adaptation_has_begun(tmp_path: Path) -> None:
    assert waiting(tmp_path) == []
    alert(tmp_path, "b", 10.0)
    alert(tmp_path, "a", 11.0)
    alert(tmp_path, "a", 12.0, "other")
    assert waiting(tmp_path) == [("b", 10.0), ("a", 11.0)]
    assert waiting(tmp_path, "") == [("b", 10.0), ("a", 11.0), ("a", 12.0)]
    step(tmp_path, "a", about=10.5)
    assert waiting(tmp_path) == [("b", 10.0), ("a", 11.0)], "it was about an earlier alert"
    step(tmp_path, "a", about=11.0)
    assert waiting(tmp_path) == [("b", 10.0)]
    alert(tmp_path, "b", 20.0)
    assert waiting(tmp_path) == [("b", 20.0)], "the later one stands for both"
    step(tmp_path, "b", about=21.0)
    assert waiting(tmp_path) == []


def test_o2_asked_until_it_has_begun(tmp_path: Path) -> None:
    heard: list[float] = []
    up = False

    def ask(found: Mapping[str, Any]) -> None:
        heard.append(found["at"])
        if not up:
            raise ConnectionError

    alert(tmp_path, "a", 1.0)
    outbox = Outbox(tmp_path, "prod", ask)
    asked = []
    for second in range(130):
        up = second >= 60
        before = len(heard)
        outbox.send(float(second))
        asked += [second] * (len(heard) - before)
    assert asked == [*range(0, 61, 5), 75, 105], "every 5 s without a server; then after 15 s, and after twice that"
    step(tmp_path, "a", about=1.0)
    outbox.send(10_000.0)
    assert len(heard) == len(asked)
    alert(tmp_path, "a", 2.0)
    outbox.send(10_000.0)
    assert heard[-1] == 2.0, "another alert is asked about at once"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.log.close()


def strangers(scene: Scene, count: int = 12) -> None:
    scene.send(count, domain="", text="please translate {} to french", reward=0.0)


@pytest.mark.parametrize("lost", [0, 1], ids=["killed after its writes", "killed before the alert was written"])
def test_o3_o5_a_killed_watcher_loses_nothing_and_repeats_nothing(scene: Scene, lost: int) -> None:
    """The state is written first, then the lines: a watcher that is killed has written some of them."""
    watcher = scene.watcher()
    watcher.look(now=0.0)
    strangers(scene)
    scene.send(28)
    (raised,) = watcher.look(now=1000.0)
    for name in (ALERTS, "windows.jsonl"):
        path = scene.folder / name
        kept = path.read_text().splitlines(keepends=True)[: 1 - lost]
        path.write_text("".join(kept))
    again = scene.watcher()
    assert again.look(now=1001.0) == []
    assert [found["at"] for found in read_lines(scene.folder / ALERTS)] == [1000.0]
    assert [window["number"] for window in scene.windows()] == [1]
    assert again.untold == [raised], "whoever was to be told may not have been"
    again.told()
    assert scene.watcher().untold == []
    assert waiting(scene.folder) == [("french", 1000.0)], "but no adaptation has begun"


def test_o3_the_first_look_is_remembered(scene: Scene) -> None:
    """What comes after it is judged by whoever looks next, also if nothing had come before the first was killed."""
    scene.send(5)
    scene.watcher()
    strangers(scene)
    watcher = scene.watcher()
    assert [found.domain for found in watcher.look(now=1000.0)] == ["french"]


def test_o4_the_cool_down_begins_with_the_adaptation(scene: Scene) -> None:
    """It is 1,000 s. Until it begins, the alert is reminded of once per cool-down."""
    watcher = scene.watcher()
    watcher.look(now=0.0)

    def raised(now: float) -> int:
        strangers(scene)
        return len(watcher.look(now=now))

    assert [raised(1000.0), raised(1999.0), raised(2001.0), raised(2500.0)] == [1, 0, 1, 0]
    step(scene.folder, "french", about=2001.0, at=2900.0)
    assert [raised(3100.0), raised(3899.0), raised(3901.0)] == [0, 0, 1]
    old = scene.bundle
    assert old is not None
    manifest = {key: value for key, value in old.manifest.items() if key != "files"} | {"metrics": {"x": 1}}
    documents = {"prompts.json": {}, "evaluation.json": {}, "reference.json": old.reference()}
    scene.bundle = write_bundle(scene.root / "next", manifest, documents, None)
    assert raised(3910.0) == 1, "another release has another reference"
    state = json.loads((scene.folder / "state-prod.json").read_text())
    assert state["watch"]["quiet_until"] == {"french": 4910.0}
