"""A store, the same for a directory and for S3 (a real server on this machine):

k1  what was stored is read back whole, and listed in its size by prefix; dates are in UTC; a file goes to S3 in one
    conditional request with its checksum, however large
k2  what is stored under a new key is never changed: the same content again is nothing, other content an error
k3  of many who replace the same content one wins; the others are told, and change nothing
k4  a key cannot lead outside, and what is not there is Missing
k5  what a killed writer leaves is never visible, and is swept; in S3 it leaves nothing
k6  a URL that nobody can read and a missing package are sentences; a directory that refuses is a StoreError
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fst.config import StoreParams
from fst.errors import ChannelMoved, ConfigError, IntegrityError, MissingDependency, StoreError
from fst.store.local import LocalStore
from fst.store.objects import Missing, Objects
from fst.store.opening import open_store
from support.store_toys import Fault, Proxy

pytest_plugins = ("support.store_fixtures",)

MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes files with a content."""
    numbers = itertools.count()

    def make(content: bytes) -> Path:
        path = tmp_path / f"source-{next(numbers)}"
        path.write_bytes(content)
        return path

    return make


def test_k1_what_was_stored_is_read_back(objects: Objects, file: Callable[[bytes], Path], tmp_path: Path) -> None:
    for content in (b"", b"\x00\xff" * 1000):
        key = f"bundles/aa/deep/er/{len(content)}.json"
        objects.create(key, file(content))
        assert objects.read(key)[0] == content
        objects.download(key, tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == content


def test_k1_a_listing_has_the_keys_that_begin_so_with_size_and_date(
    objects: Objects, file: Callable[[bytes], Path]
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)  # S3 has whole seconds
    for key in ("bundles/ab/x.json", "bundles/abc/y.json", "channels/ab.json"):
        objects.create(key, file(key.encode()))
    assert [s.key for s in objects.list("")] == ["bundles/ab/x.json", "bundles/abc/y.json", "channels/ab.json"]
    assert [s.key for s in objects.list("bundles/ab")] == ["bundles/ab/x.json", "bundles/abc/y.json"]
    assert [s.key for s in objects.list("bundles/ab/")] == ["bundles/ab/x.json"]
    assert objects.list("bundles/ad") == objects.list("nothing/") == []
    (channel,) = objects.list("channels/")
    assert channel.bytes == len("channels/ab.json")
    assert channel.modified.utcoffset() == timedelta(0)
    assert before <= channel.modified <= datetime.now(UTC)


def test_k1_more_objects_than_one_page_of_s3_holds_are_all_listed(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.settings import get_s3_default_max_keys

    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "7")
    assert get_s3_default_max_keys() == 7
    for number in range(20):
        objects.replace(f"channels/c{number:02d}.json", b"x", None)
    assert [s.key for s in objects.list("channels/")] == [f"channels/c{number:02d}.json" for number in range(20)]


@pytest.mark.parametrize("size", [10, 11 * MIB])
def test_k1_a_file_goes_to_s3_in_one_conditional_request_with_its_checksum(
    s3: str, proxy: Proxy, file: Callable[[bytes], Path], size: int
) -> None:
    store = open_store(StoreParams(url=s3))
    content = (os.urandom(MIB) * 11)[:size]
    store.create("bundles/aa/big", file(content))
    (put,) = [h for line, h in zip(proxy.seen, proxy.headers, strict=True) if line.startswith("PUT") and "big" in line]
    assert put["if-none-match"] == "*"
    assert put["content-length"] == str(size)
    assert put["x-amz-checksum-sha256"] == base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert not any(line.startswith("POST") for line in proxy.seen), "it is not cut into parts"
    assert store.read("bundles/aa/big")[0] == content
    store.create("bundles/aa/big", file(content))
    with pytest.raises(IntegrityError):
        store.create("bundles/aa/big", file(content[:-1] + b"!"))
    assert store.read("bundles/aa/big")[0] == content


def test_k2_what_is_stored_is_never_changed(objects: Objects, file: Callable[[bytes], Path]) -> None:
    objects.create("bundles/aa/x.json", file(b"first"))
    stored = objects.list("")
    objects.create("bundles/aa/x.json", file(b"first"))
    for other in (b"other", b"firs", b"first and more", b""):
        with pytest.raises(IntegrityError, match=r"bundles/aa/x\.json"):
            objects.create("bundles/aa/x.json", file(other))
    assert objects.read("bundles/aa/x.json")[0] == b"first"
    assert objects.list("") == stored, "not even written again"


def test_k2_of_many_who_create_one_key_one_wins_and_the_others_hear_of_it(
    objects: Objects, file: Callable[[bytes], Path]
) -> None:
    contents = [f"content {number}".encode() for number in range(6)]
    sources = [file(content) for content in contents]
    failed = at_once([lambda source=source: objects.create("bundles/aa/x", source) for source in sources])
    winner = objects.read("bundles/aa/x")[0]
    assert [type(f) for f in failed] == [type(None) if c == winner else IntegrityError for c in contents]


@pytest.mark.parametrize("size", [10, 6 * MIB])
def test_k2_another_file_under_the_same_key_at_the_last_moment_is_not_overwritten(
    s3: str, proxy: Proxy, file: Callable[[bytes], Path], size: int
) -> None:
    """Between the look whether the key is free and the write."""
    store, ours = open_store(StoreParams(url=s3)), file(b"a" * size)
    proxy.faults = [Fault("hang", "PUT", "bundles/aa/x", times=1)]
    failed: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: failed.extend(at_once([lambda: store.create("bundles/aa/x", ours)])))
    thread.start()
    assert proxy.hanging.wait(10)
    open_store(StoreParams(url=s3)).create("bundles/aa/x", file(b"b" * size))
    proxy.go_on.set()
    thread.join()
    assert isinstance(failed[0], IntegrityError)
    assert store.read("bundles/aa/x")[0] == b"b" * size
    assert store.sweep(datetime.now(UTC), dry_run=True) == [], "nothing stays behind"


def test_k3_a_replacement_needs_the_tag_of_what_it_replaces(objects: Objects) -> None:
    key = "channels/prod.json"
    first = objects.replace(key, b"one", None)
    assert objects.read(key) == (b"one", first)
    with pytest.raises(ChannelMoved):
        objects.replace(key, b"two", None)
    second = objects.replace(key, b"two", first)
    with pytest.raises(ChannelMoved):
        objects.replace(key, b"three", first)
    with pytest.raises(ChannelMoved):
        objects.replace("channels/never.json", b"one", first)
    assert objects.read(key) == (b"two", second)
    assert [s.key for s in objects.list("")] == [key]


def test_k3_of_many_who_replace_one_wins(objects: Objects) -> None:
    key = "channels/prod.json"
    for tag in (None, objects.replace(key, b"0", None)):
        if tag is None:
            objects.delete(key)
        contents = [f"{tag} {number}".encode() for number in range(6)]
        failed = at_once([lambda c=content, t=tag: objects.replace(key, c, t) for content in contents])
        assert sorted(type(f).__name__ for f in failed) == ["ChannelMoved"] * 5 + ["NoneType"]
        assert objects.read(key)[0] == contents[failed.index(None)]
        objects.delete(key)
        objects.replace(key, b"0", None)


def test_k3_no_write_is_lost_among_many(tmp_path: Path) -> None:
    """Threads count together, each by reading and replacing; only in the directory, where the lock is ours."""
    store = LocalStore(tmp_path / "store")
    store.replace("channels/count.json", b"0", None)

    def count() -> None:
        done = 0
        while done < 15:
            content, tag = store.read("channels/count.json")
            with contextlib.suppress(ChannelMoved):
                store.replace("channels/count.json", str(int(content) + 1).encode(), tag)
                done += 1

    assert at_once([count] * 6) == [None] * 6
    assert store.read("channels/count.json")[0] == b"90"


def test_k3_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    code = "import sys, pathlib; from fst.store.local import LocalStore\n"
    code += "with LocalStore(pathlib.Path(sys.argv[1]))._lock(): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        writer = threading.Thread(target=store.replace, args=("channels/x.json", b"x", None))
        writer.start()
        writer.join(0.5)
        assert writer.is_alive(), "it waits for the other process"
        process.kill()
        writer.join(5)
        assert not writer.is_alive()
    assert store.read("channels/x.json")[0] == b"x"


def at_once(jobs: list[Callable[[], object]]) -> list[BaseException | None]:
    """Run jobs in threads that start together; what each raised."""
    barrier, failed = threading.Barrier(len(jobs)), [None] * len(jobs)  # type: ignore[var-annotated]

    def run(number: int) -> None:
        barrier.wait()
        try:
            jobs[number]()
        except Exception as exc:
            failed[number] = exc  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_k4_what_is_not_there_is_missing_and_deleting_it_is_nothing(objects: Objects, tmp_path: Path) -> None:
    objects.delete("channels/prod.json")
    objects.replace("channels/prod.json", b"x", None)
    objects.delete("channels/prod.json")
    for _ in range(2):
        with pytest.raises(Missing):
            objects.read("channels/prod.json")
        with pytest.raises(Missing):
            objects.download("channels/prod.json", tmp_path / "got")
        objects.delete("channels/prod.json")
    assert not (tmp_path / "got").exists()
    assert objects.list("") == []


def test_k4_a_key_cannot_lead_outside(objects: Objects) -> None:
    for key in ("", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".lock", "a/.b", "a\\b", "a\nb"):
        for use in (
            functools.partial(objects.read, key),
            functools.partial(objects.delete, key),
            functools.partial(objects.replace, key, b"x", None),
            functools.partial(objects.create, key, Path(__file__)),
        ):
            with pytest.raises(StoreError, match="is no key"):
                use()
    assert objects.list("") == []


def test_k4_a_link_in_the_directory_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.json").write_text("x", encoding="utf-8")
    (tmp_path / "store/channels").symlink_to(tmp_path / "elsewhere")
    store = LocalStore(tmp_path / "store")
    for use in (lambda: store.read("channels/x.json"), lambda: store.replace("channels/y.json", b"y", None)):
        with pytest.raises(StoreError, match="leads out"):
            use()
    assert store.list("") == []
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["x.json"]


def test_k5_a_writer_killed_while_it_writes_leaves_nothing_visible_and_is_swept(tmp_path: Path) -> None:
    root, source = tmp_path / "store", tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(256 * MIB)
    code = "import sys, pathlib; from fst.store.local import LocalStore; "
    code += "LocalStore(pathlib.Path(sys.argv[1])).create('bundles/aa/x', pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(root), str(source)])
    with contextlib.suppress(FileNotFoundError):
        while process.poll() is None and not (root / ".incoming").is_dir():
            time.sleep(0.001)
        while process.poll() is None and not os.listdir(root / ".incoming"):
            time.sleep(0.001)
    process.kill()
    assert process.wait() == -9, "it had time to finish; the file is too small for this disk"
    store = LocalStore(root)
    assert store.list("") == []
    (left,) = store.sweep(datetime.now(UTC) + timedelta(minutes=1), dry_run=True)
    assert store.sweep(datetime.now(UTC) - timedelta(minutes=1), dry_run=False) == [], "it may be at work still"
    assert store.sweep(datetime.now(UTC) + timedelta(minutes=1), dry_run=False) == [left]
    assert list((root / ".incoming").iterdir()) == []
    source.write_bytes(b"small")
    store.create("bundles/aa/x", source)
    assert store.read("bundles/aa/x")[0] == b"small"


def test_k5_an_upload_to_s3_that_was_killed_leaves_nothing_and_changes_nothing_when_it_arrives_late(
    s3: str, proxy: Proxy, file: Callable[[bytes], Path]
) -> None:
    proxy.faults = [Fault("hang", "PUT", "bundles/aa/x", times=1)]
    code = "import sys, pathlib; from fst.store.s3 import S3Store; "
    code += "S3Store(*sys.argv[1:3]).create('bundles/aa/x', pathlib.Path(sys.argv[3]))"
    place = s3.removeprefix("s3://").split("/", 1)
    process = subprocess.Popen([sys.executable, "-c", code, *place, str(file(b"x" * 6 * MIB))])
    assert proxy.hanging.wait(30)
    process.kill()
    assert process.wait() == -9
    store = open_store(StoreParams(url=s3))
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert store.list("") == store.sweep(later, dry_run=False) == []
    store.create("bundles/aa/x", file(b"another"))
    seen = len(proxy.answered)
    proxy.go_on.set()
    while len(proxy.answered) == seen:
        time.sleep(0.01)
    assert proxy.answered[seen:] == [412], "the dead writer's request does not find its key free any more"
    assert store.read("bundles/aa/x")[0] == b"another"


def test_k5_a_probe_that_a_killed_writer_left_is_swept(s3: str, proxy: Proxy) -> None:
    store = open_store(StoreParams(url=s3))
    proxy.faults = [Fault(403, "DELETE")]
    store.replace("channels/x.json", b"x", None)
    proxy.faults = []
    assert store.sweep(datetime.now(UTC) - timedelta(minutes=1), dry_run=False) == [], "it may be in use"
    later = datetime.now(UTC) + timedelta(minutes=1)
    (probe,) = store.sweep(later, dry_run=True)
    assert probe.startswith(".probe/")
    assert store.sweep(later, dry_run=False) == [probe]
    assert store.sweep(later, dry_run=False) == []
    assert [s.key for s in store.list("")] == ["channels/x.json"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is empty"),
        ("gs://bucket/x", "neither a directory nor"),
        ("s3://", "neither a directory nor"),
        ("s3:///x", "neither a directory nor"),
        ("file:///tmp/x", "neither a directory nor"),
    ],
)
def test_k6_a_url_that_nobody_can_read_is_a_sentence_with_its_key(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"^store.url: .*{says}"):
        open_store(StoreParams(url=url))


def test_k6_without_boto3_a_bucket_is_a_sentence_and_a_directory_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "fst.store.s3")
    with pytest.raises(MissingDependency, match=r"pip install 'fast-slow-training\[s3\]'"):
        open_store(StoreParams(url="s3://bucket"))
    open_store(StoreParams(url=str(tmp_path))).replace("channels/x.json", b"x", None)


def test_k6_an_endpoint_that_is_no_url_is_a_sentence_without_it(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "user:password")
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL_S3: .*http://host:port") as caught:
        open_store(StoreParams(url=s3)).list("")
    assert "password" not in str(caught.value)


def test_k6_a_file_in_place_of_the_directory_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine", encoding="utf-8")
    store = LocalStore(tmp_path / "store")
    for use in (
        lambda: store.list(""),
        lambda: store.read("channels/x.json"),
        lambda: store.replace("channels/x.json", b"x", None),
        lambda: store.create("channels/x.json", Path(__file__)),
    ):
        with pytest.raises(StoreError, match=r"store\.url"):
            use()
    assert (tmp_path / "store").read_text(encoding="utf-8") == "mine"
