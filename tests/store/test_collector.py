"""A collector and a release at the same time, over the same store, an operation at a time:

g1  in whatever order their operations come, a channel points at nothing that is not whole in the store; a move that
    fails changed nothing, and the bundle in force is never touched; the orders that decide are among those tried
g2  so it is when the bundle is published once more before the move
g3  a note that a killed collector left counts for an hour, and then goes with the bundle
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fst.errors import ChannelMoved, StoreError
from fst.store.bundle import Bundle
from fst.store.channel import Channel
from fst.store.local import LocalStore
from fst.store.objects import Missing, Objects, Stored
from fst.store.releases import Releases
from support.store_toys import toy_bundle


class Shelves:
    """A store in memory, to try many orders quickly; the real ones are held to the same by test_store.py."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def read(self, key: str) -> tuple[bytes, str]:
        if key not in self.content:
            raise Missing(key)
        return self.content[key], self.content[key].decode("latin-1")

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.read(key)[0])

    def create(self, key: str, source: Path) -> None:
        self.content.setdefault(key, source.read_bytes())

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        if tag != (self.content[key].decode("latin-1") if key in self.content else None):
            raise ChannelMoved(key)
        self.content[key] = data
        return data.decode("latin-1")

    def list(self, prefix: str) -> Sequence[Stored]:
        now = datetime.now(UTC)
        return sorted(Stored(k, now, len(c)) for k, c in self.content.items() if k.startswith(prefix))

    def delete(self, key: str) -> None:
        self.content.pop(key, None)

    def sweep(self, before: datetime, dry_run: bool) -> Sequence[str]:
        return []


class Turns:
    """Hands the operations of a store to users in an order that is given, and then as they come."""

    def __init__(self, objects: Objects, order: Sequence[str]) -> None:
        self._objects, self._order = objects, list(order)
        self._turn, self._ended = threading.Condition(), set[str]()

    def of(self, user: str) -> Objects:
        turns = self

        class Of:
            def __getattr__(self, name: str) -> Callable[..., object]:
                return lambda *arguments: turns._take(user, name, *arguments)

        return Of()  # type: ignore[return-value]

    def end(self, user: str) -> None:
        with self._turn:
            self._ended.add(user)
            self._turn.notify_all()

    def _take(self, user: str, name: str, *arguments: object) -> object:
        with self._turn:
            self._turn.wait_for(lambda: self._next() in (None, user))
            if self._order:
                self._order.pop(0)
            self._turn.notify_all()
            return getattr(self._objects, name)(*arguments)

    def _next(self) -> str | None:
        while self._order and self._order[0] in self._ended:
            self._order.pop(0)
        return self._order[0] if self._order else None


def together(store: Objects, order: Sequence[str], jobs: dict[str, Callable[[Objects], object]]) -> dict[str, object]:
    """What each job gave or raised, when their operations come in this order."""
    turns, outcome = Turns(store, order), dict[str, object]()

    def run(user: str) -> None:
        try:
            outcome[user] = jobs[user](turns.of(user))
        except Exception as exc:
            outcome[user] = exc
        turns.end(user)

    threads = [threading.Thread(target=run, args=(user,)) for user in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return [toy_bundle(folder / str(number), number / 8) for number in range(2)]


def race(bundles: list[Bundle], order: Sequence[str], released_before: bool, again: bool) -> tuple[str, bool]:
    """A release of the second bundle, published before and perhaps once more, against a collector to which everything
    is old; how the release ended, and whether the collector took the bundle."""
    store = Shelves()
    releases = Releases(store)
    before, target = releases.channel("prod"), releases.publish(bundles[1].folder)
    if released_before:
        before = releases.move(before, releases.publish(bundles[0].folder), "release", "")

    def release(objects: Objects) -> Channel:
        mine = Releases(objects)
        if again:
            mine.publish(bundles[1].folder)
        return mine.move(before, target, "release", "")

    jobs = {"mover": release, "collector": lambda objects: Releases(objects).collect(-timedelta(days=1))}
    outcome = together(store, order, jobs)
    moved, channel = outcome["mover"], releases.channel("prod")
    if isinstance(moved, Channel):
        assert channel == moved
        assert channel.bundle == target
    else:
        assert isinstance(moved, StoreError)
        assert (channel.bundle, channel.history) == (before.bundle, before.history)
    files = {key for key in store.content if key.startswith("bundles/")}
    if channel.bundle:
        parts = ("evaluation.json", "manifest.json", "prompts.json")
        assert files >= {f"bundles/{channel.bundle}/{part}" for part in parts}
        assert channel.bundle in [published.id for published in releases.bundles()]
    assert not any("removing" in key for key in files)
    assert outcome["collector"] in ([], [target])
    says = "moved" if isinstance(moved, Channel) else str(moved).partition(target[:12])[2].partition(";")[0]
    return says.strip(), outcome["collector"] == [target]


@pytest.mark.slow
@pytest.mark.parametrize("released_before", [False, True])
def test_g1_a_channel_points_at_what_is_whole(bundles: list[Bundle], released_before: bool) -> None:
    seen = {
        race(bundles, [*["mover"] * a, *["collector"] * b, *["mover"] * c, *["collector"] * 20], released_before, False)
        for a, b, c in itertools.product(range(7), range(11), range(7))
    }
    assert seen == {
        ("moved", False),
        ("is not in the store, or only in part", True),
        ("was removed from the store at the same moment", False),
        ("was removed from the store at the same moment", True),
    }


@pytest.mark.slow
def test_g2_also_when_the_bundle_is_published_once_more(bundles: list[Bundle]) -> None:
    seen = {
        race(bundles, [*["mover"] * a, *["collector"] * b, *["mover"] * c, *["collector"] * 20], True, True)
        for a, b, c in itertools.product(range(14), range(11), (2, 4, 6, 12, 30))
    }
    assert {says for says, _ in seen} >= {
        "moved",
        "is being removed while it is published",
        "was removed from the store at the same moment",
    }
    assert ("moved", True) in seen, "it was gone, and came back whole"


def test_g3_a_note_of_a_killed_collector_counts_for_an_hour(bundles: list[Bundle], tmp_path: Path) -> None:
    releases = Releases(LocalStore(tmp_path))
    channel, target = releases.channel("prod"), releases.publish(bundles[0].folder)
    note = tmp_path / "bundles" / target / "removing-0123"
    note.touch()
    assert releases.bundles() == []
    with pytest.raises(StoreError, match="only in part"):
        releases.move(channel, target, "release", "")
    with pytest.raises(StoreError, match="is being removed"):
        releases.publish(bundles[0].folder)
    long_ago = datetime.now(UTC).timestamp() - 3700
    os.utime(note, (long_ago, long_ago))
    assert [published.id for published in releases.bundles()] == [target]
    assert releases.collect(timedelta(0)) == [target]
    assert list((tmp_path / "bundles").rglob("*")) == []
