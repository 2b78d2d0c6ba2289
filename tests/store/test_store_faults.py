"""A store that fails, a real server behind a proxy that misbehaves; each time the error's class, exit code and
sentence, nothing half-written here and nothing lost there:

e1  an endpoint that refuses, never answers, is unknown, closes, speaks something else, or denies
e2  an answer that is cut off, shortened or changed: once is mended by asking again, twice is an IntegrityError
e3  an endpoint that ignores conditional writes is found out before the first release, and refused unless allowed
e4  a write whose answer was lost is known to be done
e5  a dead endpoint is given up within about 20 seconds
e6  a full disk, here or in the store's directory, leaves nothing half-written
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fst.config import StoreParams
from fst.errors import ChannelMoved, FstError, IntegrityError, StoreError
from fst.store.bundle import Bundle
from fst.store.local import LocalStore
from fst.store.objects import Objects
from fst.store.opening import open_store
from fst.store.releases import Releases
from fst.store.s3 import Patience, S3Store
from support.store_toys import Fault, Proxy, toy_adapter, toy_bundle

pytest_plugins = ("support.store_fixtures",)

pytestmark = pytest.mark.slow
HASTY = Patience(connect_seconds=20, read_seconds=20, attempts=1)  # asks once; a busy machine has time to answer


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "bundle", adapter=toy_adapter(tmp_path / "adapter"))


@pytest.fixture
def hasty(s3: str) -> Objects:
    """The bucket, asked once."""
    return bucket_of(s3, HASTY)


def bucket_of(s3: str, patience: Patience) -> S3Store:
    bucket, prefix = s3.removeprefix("s3://").split("/", 1)
    return S3Store(bucket, prefix, patience=patience)


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def closing_port() -> Iterator[int]:
    """A port that takes connections and closes them."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.close()

        thread = threading.Thread(target=close)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("closed_port", "the connection is refused; check AWS_ENDPOINT_URL_S3"),
        ("silent_port", "it does not answer in time; check that it is up"),
        ("closing_port", "it closes the connection without an answer"),
        ("no.such.host.invalid", "its host name is unknown"),
    ],
)
def test_e1_an_endpoint_that_cannot_be_asked_is_a_sentence(
    request: pytest.FixtureRequest,
    s3: str,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    says: str,
) -> None:
    store = bucket_of(s3, replace(HASTY, read_seconds=0.3) if where == "silent_port" else HASTY)
    host = f"127.0.0.1:{request.getfixturevalue(where)}" if where.endswith("_port") else where
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:planted@{host}" if "invalid" in where else f"http://{host}")
    before = tree(tmp_path)
    releases = Releases(store)
    for use in (
        lambda: releases.publish(bundle.folder),
        lambda: releases.fetch(bundle.id, tmp_path / "place"),
        lambda: releases.channel("prod"),
        lambda: releases.resolve(bundle.id),
    ):
        with pytest.raises(StoreError, match=says) as caught:
            use()
        assert f"http://{host}: " in str(caught.value), "the endpoint is named"
        assert f"the bucket '{store.bucket}'" in str(caught.value)
        assert caught.value.exit_code == 3
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "access denied; the credentials need s3:ListBucket"),
        (503, "it is overloaded or broken; try again later"),
        (400, r"it answers 400 \(HTTP 400\)"),
        (301, "is in another region"),
    ],
)
def test_e1_an_endpoint_that_refuses_is_a_sentence(hasty: Objects, proxy: Proxy, status: int, says: str) -> None:
    proxy.faults = [Fault(status, "GET"), Fault(status, "PUT"), Fault(status, "DELETE")]
    for use in (
        lambda: hasty.read("channels/prod.json"),
        lambda: hasty.list(""),
        lambda: hasty.replace("channels/prod.json", b"x", None),
        lambda: hasty.delete("channels/prod.json"),
    ):
        with pytest.raises(StoreError, match=says):
            use()
    proxy.faults = []
    assert hasty.list("") == []


def test_e1_a_bucket_that_is_not_there_or_cannot_be_is_a_sentence(s3: str) -> None:
    for bucket, says in (("no-such-bucket", "there is no such bucket; create it"), ("a b", "no name for a bucket")):
        with pytest.raises(StoreError, match=rf"'{bucket}' at http://127\.0\.0\.1:\d+: .*{says}"):
            Releases(S3Store(bucket, "x", patience=HASTY)).channel("prod")


def test_e1_without_credentials_it_is_a_sentence(hasty: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        hasty.list("")


@pytest.mark.slow
def test_e1_an_endpoint_that_dies_in_the_middle_leaves_nothing_visible(s3: str, proxy: Proxy, bundle: Bundle) -> None:
    proxy.faults = [Fault("hang", "PUT", "prompts.json")]
    releases = Releases(bucket_of(s3, replace(HASTY, read_seconds=4)))
    with pytest.raises(StoreError, match="does not answer in time"):
        releases.publish(bundle.folder)
    assert releases.bundles() == []
    proxy.faults = []
    assert releases.publish(bundle.folder) == bundle.id


@pytest.mark.parametrize("kind", ["cut", "shorten", "change"])
def test_e2_a_bad_answer_is_asked_for_again_and_then_refused(
    hasty: Objects, proxy: Proxy, bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    releases, place = Releases(hasty), tmp_path / "place"
    releases.publish(bundle.folder)
    before = tree(tmp_path)
    for path in ("manifest.json", "prompts.json", "adapter/adapter_model.safetensors"):
        proxy.faults = [Fault(kind, "GET", path)]  # type: ignore[arg-type]
        with pytest.raises(IntegrityError, match=path) as caught:
            releases.fetch(bundle.id, place)
        assert caught.value.exit_code == 7
        assert tree(tmp_path) == before
        proxy.faults = [Fault(kind, "GET", path, times=1)]  # type: ignore[arg-type]
        assert releases.fetch(bundle.id, place).id == bundle.id
        assert tree(place) == tree(bundle.folder)
        shutil.rmtree(place)


@pytest.mark.parametrize("kind", ["cut", "shorten", "change"])
def test_e2_a_channel_that_comes_damaged_is_not_believed(
    hasty: Objects, proxy: Proxy, bundle: Bundle, kind: str
) -> None:
    releases = Releases(hasty)
    channel = releases.move(releases.channel("prod"), releases.publish(bundle.folder), "release", "")
    proxy.faults = [Fault(kind, "GET", "prod.json")]  # type: ignore[arg-type]
    for use in (lambda: releases.channel("prod"), lambda: releases.collect(timedelta(0))):
        with pytest.raises(IntegrityError, match="prod"):
            use()
    proxy.faults = [Fault(kind, "GET", "prod.json", times=1)]  # type: ignore[arg-type]
    assert releases.channel("prod") == channel


@pytest.mark.parametrize("how", ["strip", "reject"])
@pytest.mark.parametrize("headers", [("if-none-match", "if-match"), ("if-none-match",), ("if-match",)])
def test_e3_an_endpoint_that_does_not_honour_conditions_is_refused(
    s3: str, proxy: Proxy, bundle: Bundle, how: str, headers: tuple[str, ...]
) -> None:
    setattr(proxy, how, headers)
    store = open_store(StoreParams(url=s3))
    releases = Releases(store)
    bundle_id = releases.publish(bundle.folder)
    with pytest.raises(StoreError, match=r"ignores conditional writes .* store\.allow_unconditional_writes") as caught:
        releases.move(releases.channel("prod"), bundle_id, "release", "")
    assert caught.value.exit_code == 3
    assert releases.channel("prod").bundle is None
    assert [published.id for published in releases.bundles()] == [bundle_id]
    assert not [stored.key for stored in store.list("") if "probe" in stored.key]


def test_e3_where_it_is_allowed_a_write_looks_before(s3: str, proxy: Proxy, bundle: Bundle) -> None:
    proxy.strip = ("if-none-match", "if-match")
    store = open_store(StoreParams(url=s3, allow_unconditional_writes=True))
    releases = Releases(store)
    nothing = releases.channel("prod")
    first = releases.move(nothing, releases.publish(bundle.folder), "release", "")
    assert releases.channel("prod") == first
    with pytest.raises(ChannelMoved, match="moved while this was decided"):
        releases.move(nothing, bundle.id, "release", "")
    assert releases.move(first, bundle.id, "release", "again").history[0] == first.history[0]
    source = bundle.folder / "prompts.json"
    store.create("bundles/aa/x.json", source)
    with pytest.raises(IntegrityError):
        store.create("bundles/aa/x.json", bundle.folder / "evaluation.json")
    assert store.read("bundles/aa/x.json")[0] == source.read_bytes()


def test_e4_a_write_whose_answer_was_lost_is_known_to_be_done(s3: str, proxy: Proxy, bundle: Bundle) -> None:
    releases = Releases.open(StoreParams(url=s3))
    bundle_id = releases.publish(bundle.folder)
    channel = releases.channel("prod")
    for _ in range(2):
        proxy.faults = [Fault("lose", "PUT", "prod.json", times=1)]
        channel = releases.move(channel, bundle_id, "release", "")
        assert releases.channel("prod") == channel
        writes = [line for line in proxy.seen if line.startswith("PUT") and "prod.json" in line]
        assert len(writes) >= 2, "it was asked again, and then refused"
    assert len(channel.history) == 2


def test_e5_a_dead_endpoint_is_given_up_soon() -> None:
    patience = Patience()
    waits = sum(2**attempt for attempt in range(1, patience.attempts))  # the SDK's longest, half on average
    longest = patience.attempts * max(patience.connect_seconds, patience.read_seconds)
    assert longest + waits / 2 <= 18
    assert longest + waits <= 21


def test_e6_a_full_disk_leaves_nothing_half_written(tiny_disk: Path, tmp_path: Path) -> None:
    large = toy_bundle(tmp_path / "large", adapter=toy_adapter(tmp_path / "large adapter", kilobytes=100))
    small = toy_bundle(tmp_path / "small")
    full, roomy = Releases(LocalStore(tiny_disk / "store")), Releases(LocalStore(tmp_path / "store"))
    full.publish(small.folder)
    roomy.publish(large.folder)
    for use in (
        lambda: full.publish(large.folder),
        lambda: roomy.fetch(large.id, tiny_disk / "place"),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            use()
        assert caught.value.errno == errno.ENOSPC
        assert not isinstance(caught.value, FstError)
    assert [published.id for published in full.bundles()] == [small.id]
    assert list((tiny_disk / "store" / ".incoming").iterdir()) == []
    assert [p.name for p in tiny_disk.iterdir()] == ["store"]
    assert full.fetch(small.id, tmp_path / "place").id == small.id
