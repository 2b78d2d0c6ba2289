"""Releases, over a directory and over S3 (a real server on this machine):

r1  what was published is fetched, verified, byte for byte; again is nothing, here and there
r2  a half-finished upload is invisible, also when its writer was killed, and publishing again finishes it
r3  a reference is a channel, an id, or enough of one; what means nothing or too much is a sentence
r4  of releases decided at once, one wins; the others learn where the channel points and change nothing
r5  a rollback walks back, and forth by name; a channel points at nothing that is not whole in the store
r6  the collector removes what no channel and no history names, when it is old, and never anything else
r7  what the store answers is hashed: damage is named, tried twice, and leaves nothing behind
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.errors import ChannelMoved, ConfigError, IntegrityError, StoreError
from fst.files import document
from fst.store.bundle import Bundle, read_bundle
from fst.store.channel import Channel
from fst.store.local import LocalStore
from fst.store.objects import Objects
from fst.store.releases import Releases
from support.store_toys import toy_adapter, toy_bundle

pytest_plugins = ("support.store_fixtures",)

AT_ONCE, OLD = timedelta(0), timedelta(days=1)


pytestmark = pytest.mark.slow


@pytest.fixture
def releases(objects: Objects) -> Releases:
    return Releases(objects)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Four bundles, the last one with an adapter."""
    folder = tmp_path_factory.mktemp("bundles")
    adapter = toy_adapter(folder / "adapter")
    return [toy_bundle(folder / str(number), number / 8, adapter if number == 3 else None) for number in range(4)]


def release(releases: Releases, bundle: Bundle, name: str = "prod") -> Channel:
    return releases.move(releases.channel(name), releases.publish(bundle.folder), "release", "better")


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(objects: Objects) -> dict[str, bytes]:
    return {stored.key: objects.read(stored.key)[0] for stored in objects.list("")}


def test_r1_what_was_published_is_fetched(releases: Releases, bundles: list[Bundle], tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    ids = [releases.publish(bundle.folder) for bundle in bundles[2:]]
    assert ids == [bundle.id for bundle in bundles[2:]]
    for bundle in bundles[2:]:
        fetched = releases.fetch(bundle.id, tmp_path / "cache" / bundle.id)
        assert fetched == read_bundle(fetched.folder)
        assert tree(fetched.folder) == tree(bundle.folder)
        assert releases.manifest(bundle.id) == bundle.manifest
    assert {p.name for p in (tmp_path / "cache").iterdir()} == set(ids)
    published = releases.bundles()
    assert {p.id for p in published} == set(ids)
    assert all(before <= p.at <= datetime.now(UTC) for p in published)


def test_r1_again_is_nothing(releases: Releases, objects: Objects, bundles: list[Bundle], tmp_path: Path) -> None:
    releases.publish(bundles[3].folder)
    stored = objects.list("")
    assert releases.publish(bundles[3].folder) == bundles[3].id
    assert objects.list("") == stored
    place = releases.fetch(bundles[3].id, tmp_path / "place").folder
    inode = place.stat().st_ino
    assert releases.fetch(bundles[3].id, place).folder.stat().st_ino == inode, "what is there is used"
    (place / "prompts.json").write_text("{}", encoding="utf-8")
    assert tree(releases.fetch(bundles[3].id, place).folder) == tree(bundles[3].folder), "unless it is damaged"
    releases.publish(bundles[0].folder)
    assert releases.fetch(bundles[0].id, place).id == bundles[0].id, "or another one"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(ConfigError, match="mine holds something that is no bundle"):
        releases.fetch(bundles[0].id, tmp_path / "mine")
    assert tree(tmp_path / "mine") == {"thesis.txt": b"years"}


def test_r1_a_damaged_bundle_is_not_published(releases: Releases, objects: Objects, tmp_path: Path) -> None:
    bundle = toy_bundle(tmp_path / "bundle")
    (bundle.folder / "prompts.json").write_text("{}", encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"prompts\.json"):
        releases.publish(bundle.folder)
    assert objects.list("") == []


# Publishes a bundle; says "at KEY" before each new object and waits for a line before the one that is named.
PUBLISHER = """
import sys
from pathlib import Path
from fst.config import StoreParams
from fst.store.releases import Releases
from fst.store.opening import open_store
url, folder, until = sys.argv[1:]
objects = open_store(StoreParams(url=url))
create = objects.create
def slowly(key, source):
    if key.endswith(until):
        print("there", flush=True)
        sys.stdin.readline()
    create(key, source)
objects.create = slowly
Releases(objects).publish(Path(folder))
"""


@pytest.mark.parametrize("until", ["adapter_model.safetensors", "manifest.json"])
def test_r2_a_killed_publisher_leaves_nothing_visible_and_publishing_again_finishes(
    url: str, objects: Objects, releases: Releases, bundles: list[Bundle], tmp_path: Path, until: str
) -> None:
    bundle = bundles[3]
    command = [sys.executable, "-c", PUBLISHER, url, str(bundle.folder), until]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.kill()
    assert process.returncode == -9
    keys = [stored.key for stored in objects.list("")]
    assert len(keys) == (4 if until == "manifest.json" else 1), "it was in the middle"
    assert releases.bundles() == []
    for use in (
        lambda: releases.resolve(bundle.id),
        lambda: releases.fetch(bundle.id, tmp_path / "place"),
        lambda: releases.manifest(bundle.id),
    ):
        with pytest.raises(ConfigError, match="in the store"):
            use()
    with pytest.raises(StoreError, match="not in the store, or only in part"):
        releases.move(releases.channel("prod"), bundle.id, "release", "")
    assert not (tmp_path / "place").exists()
    assert [stored.key for stored in objects.list("")] == keys
    assert releases.publish(bundle.folder) == bundle.id
    assert tree(releases.fetch(bundle.id, tmp_path / "place").folder) == tree(bundle.folder)


def test_r3_a_reference_is_a_channel_an_id_or_enough_of_one(releases: Releases, bundles: list[Bundle]) -> None:
    release(releases, bundles[0])
    releases.publish(bundles[1].folder)
    assert releases.resolve("prod") == bundles[0].id
    for digits in (6, 12, 64):
        assert releases.resolve(bundles[1].id[:digits]) == bundles[1].id
    for reference, says in (
        ("staging", "'staging' has no release yet"),
        (bundles[2].id, "is not the id of a bundle in the store"),
        ("Prod", "a name is"),
        ("01234", "a name is"),
        (bundles[1].id + "0", "a name is|has no release"),
        ("", "a name is"),
    ):
        with pytest.raises(ConfigError, match=says):
            releases.resolve(reference)


def test_r3_a_beginning_of_two_is_ambiguous(objects: Objects, releases: Releases) -> None:
    first, second = "abcdef" + "0" * 58, "abcdef" + "1" * 58
    for bundle_id in (first, second):
        objects.replace(f"bundles/{bundle_id}/manifest.json", b"{}", None)
    with pytest.raises(ConfigError, match=f"more than one: {first}, {second}"):
        releases.resolve("abcdef")
    assert releases.resolve("abcdef0") == first


def test_r4_a_channel_that_moved_is_left_as_it_is(releases: Releases, bundles: list[Bundle]) -> None:
    ids = [releases.publish(bundle.folder) for bundle in bundles]
    nothing = releases.channel("prod")
    assert (nothing.bundle, nothing.history) == (None, ())
    first = releases.move(nothing, ids[0], "release", "first")
    assert first == releases.channel("prod")
    second = releases.move(first, ids[1], "release", "second")
    for stale in (nothing, first):
        with pytest.raises(ChannelMoved, match=rf"'prod' moved .* points at bundle {ids[1][:12]} \(release of 20"):
            releases.move(stale, ids[2], "release", "late")
    assert releases.channel("prod") == second
    assert [(e.bundle, e.action, e.reason) for e in second.history] == [
        (ids[0], "release", "first"),
        (ids[1], "release", "second"),
    ]
    assert ChannelMoved.exit_code == 6


# Moves a channel that it has read when it is told to; exits as the command line would.
MOVER = """
import sys
from fst.errors import FstError
from fst.config import StoreParams
from fst.store.releases import Releases
url, bundle = sys.argv[1:]
releases = Releases.open(StoreParams(url=url))
channel = releases.channel("prod")
print("ready", flush=True)
sys.stdin.readline()
try:
    releases.move(channel, bundle, "release", bundle)
except FstError as error:
    sys.exit(error.exit_code)
"""


def test_r4_of_processes_that_release_at_once_one_wins(url: str, releases: Releases, bundles: list[Bundle]) -> None:
    start = release(releases, bundles[0])
    ids = [releases.publish(bundle.folder) for bundle in bundles[1:]]
    with contextlib.ExitStack() as stack:
        movers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", MOVER, url, bundle_id],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for bundle_id in ids
        ]
        for mover in movers:
            assert mover.stdout is not None
            assert mover.stdout.readline() == "ready\n"
        for mover in movers:
            assert mover.stdin is not None
            mover.stdin.write("go\n")
            mover.stdin.flush()
        codes = [mover.wait() for mover in movers]
    assert sorted(codes) == [0, 6, 6]
    channel = releases.channel("prod")
    assert channel.bundle == ids[codes.index(0)]
    assert channel.history[:-1] == start.history


def test_r5_rollbacks_walk_back_and_forth(releases: Releases, bundles: list[Bundle]) -> None:
    a, b, c, d = (bundle.id for bundle in bundles)
    for bundle in bundles[:3]:
        release(releases, bundle)
    assert releases.rollback("prod", reason="bad answers").bundle == b
    assert releases.channel("prod").history[-1].reason == "bad answers"
    assert releases.rollback("prod").bundle == a
    before = releases.channel("prod")
    with pytest.raises(ConfigError, match=f"nothing was released before bundle {a[:12]}"):
        releases.rollback("prod")
    with pytest.raises(ConfigError, match=r"points at bundle [0-9a-f]+ already"):
        releases.rollback("prod", to=a)
    releases.publish(bundles[3].folder)
    with pytest.raises(ConfigError, match="not the id of a bundle in the history"):
        releases.rollback("prod", to=d)
    assert releases.channel("prod") == before, "nothing of this moved it"
    assert releases.rollback("prod", to=c[:8]).bundle == c
    assert release(releases, bundles[3]).before == c
    with pytest.raises(ConfigError, match="channel 'staging' has no release yet"):
        releases.rollback("staging")


def test_r5_a_bundle_that_lost_a_file_in_the_store_is_not_released(
    objects: Objects, releases: Releases, bundles: list[Bundle]
) -> None:
    before = release(releases, bundles[0])
    releases.publish(bundles[3].folder)
    objects.delete(f"bundles/{bundles[3].id}/adapter/adapter_model.safetensors")
    with pytest.raises(StoreError, match="only in part"):
        releases.move(before, bundles[3].id, "release", "")
    assert releases.channel("prod") == before
    release(releases, bundles[3])
    assert releases.channel("prod").bundle == bundles[3].id, "publishing again mends it"


def test_r6_the_collector_keeps_what_a_channel_or_its_history_names(
    objects: Objects, releases: Releases, bundles: list[Bundle], tmp_path: Path
) -> None:
    a, b, c, d = (bundle.id for bundle in bundles)
    release(releases, bundles[0])
    release(releases, bundles[1])
    releases.rollback("prod")
    release(releases, bundles[2], "staging")
    releases.publish(bundles[3].folder)
    half = f"bundles/{'0' * 64}/prompts.json"
    objects.replace(half, b"{}", None)
    objects.replace("bundles/readme.txt", b"not ours", None)
    before = contents(objects)
    assert releases.collect(OLD) == [], "nothing is old enough"
    assert sorted(releases.collect(AT_ONCE, dry_run=True)) == sorted(["0" * 64, d])
    assert contents(objects) == before, "a dry run removes nothing"
    assert sorted(releases.collect(AT_ONCE)) == sorted(["0" * 64, d])
    kept = {key: content for key, content in before.items() if key != half and d not in key}
    assert contents(objects) == kept
    assert {p.id for p in releases.bundles()} == {a, b, c}
    assert releases.collect(AT_ONCE) == []


def test_r6_a_bundle_that_is_young_in_one_part_is_kept(tmp_path: Path, bundles: list[Bundle]) -> None:
    releases = Releases(LocalStore(tmp_path))
    releases.publish(bundles[3].folder)
    old = datetime.now(UTC).timestamp() - 2 * OLD.total_seconds()
    files = [p for p in (tmp_path / "bundles").rglob("*") if p.is_file()]
    for file in files[1:]:
        os.utime(file, (old, old))
    assert releases.collect(OLD) == releases.collect(OLD, dry_run=True) == []
    os.utime(files[0], (old, old))
    assert releases.collect(OLD) == [bundles[3].id]


def test_r6_nothing_is_collected_when_a_channel_cannot_be_read(
    objects: Objects, releases: Releases, bundles: list[Bundle]
) -> None:
    tag = release(releases, bundles[0]).tag
    releases.publish(bundles[1].folder)
    objects.replace("channels/prod.json", b'{"schema": 2}', tag)
    before = contents(objects)
    with pytest.raises(IntegrityError, match="channel 'prod'"):
        releases.collect(AT_ONCE)
    assert contents(objects) == before


MOVES = st.sampled_from(["publish", "release", "rollback", "to", "collect"])


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(MOVES, st.integers(0, 2), st.sampled_from(["prod", "staging"])), max_size=16))
def test_r6_whatever_happened_what_a_history_names_is_there_after_a_collection(
    bundles: list[Bundle], script: list[tuple[str, int, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        releases = Releases(LocalStore(Path(folder)))
        named: set[str] = set()
        for kind, number, name in [*script, ("collect", 0, "")]:
            bundle = bundles[number]
            if kind == "publish":
                releases.publish(bundle.folder)
            elif kind == "release":
                named.add(release(releases, bundle, name).bundle or "")
            elif kind == "collect":
                releases.collect(AT_ONCE)
                assert {p.id for p in releases.bundles()} == named
            else:
                with contextlib.suppress(ConfigError):
                    releases.rollback(name, bundle.id if kind == "to" else None)
        for bundle_id in named:
            assert releases.fetch(bundle_id, Path(folder) / "place").id == bundle_id


@pytest.mark.parametrize("path", ["manifest.json", "prompts.json", "adapter/adapter_model.safetensors"])
def test_r7_damage_in_the_store_is_named_and_nothing_is_left(
    objects: Objects, releases: Releases, bundles: list[Bundle], tmp_path: Path, path: str
) -> None:
    bundle = bundles[3]
    key = f"bundles/{releases.publish(bundle.folder)}/{path}"
    content = (bundle.folder / path).read_bytes()
    for damaged in (content[:-1], content[:-2] + b"!" + content[-1:], b"", None):
        objects.delete(key)
        if damaged is not None:
            objects.replace(key, damaged, None)
        with pytest.raises(ConfigError if (path, damaged) == ("manifest.json", None) else IntegrityError) as caught:
            releases.fetch(bundle.id, tmp_path / "place")
        assert bundle.id[:12] in str(caught.value)
        assert path in str(caught.value) or damaged is None
        assert list(tmp_path.glob("*place*")) + list(tmp_path.glob(".*place*")) == []


def test_r7_another_bundle_in_its_place_is_refused(
    objects: Objects, releases: Releases, bundles: list[Bundle], tmp_path: Path
) -> None:
    wanted, other = (releases.publish(bundle.folder) for bundle in bundles[:2])
    for stored in objects.list(f"bundles/{wanted}/"):
        objects.delete(stored.key)
        objects.replace(stored.key, objects.read(stored.key.replace(wanted, other))[0], None)
    for use in (
        lambda: releases.fetch(wanted, tmp_path / "place"),
        lambda: releases.move(releases.channel("prod"), wanted, "release", ""),
        lambda: releases.publish(bundles[0].folder),
    ):
        with pytest.raises(IntegrityError):
            use()
    assert not (tmp_path / "place").exists()
    assert releases.channel("prod").bundle is None


def test_r7_a_manifest_that_leads_outside_is_refused_before_anything_is_written(
    objects: Objects, releases: Releases, tmp_path: Path
) -> None:
    """A store that makes up a whole bundle, id and all, still cannot write where it likes."""
    bundle = toy_bundle(tmp_path / "bundle")
    files = {**bundle.manifest["files"], "../../evil.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}}
    manifest = document({**bundle.manifest, "files": files}).encode()
    evil = hashlib.sha256(manifest).hexdigest()
    objects.replace(f"bundles/{evil}/manifest.json", manifest, None)
    with pytest.raises(IntegrityError, match=r"\.\./\.\./evil\.json"):
        releases.fetch(evil, tmp_path / "deep" / "er" / "place")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "deep" / "er" / "place").exists()
