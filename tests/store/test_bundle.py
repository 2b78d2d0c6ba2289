"""The bundle:

b1  equal inputs give equal bytes and an equal id, wherever and in whatever order; anything else gives another id
b2  reading verifies every byte: whatever is changed, cut off, added or missing is refused, and named
b3  nothing that could run code, lead outside or hide is read: pickles, links, devices, paths, other schemas
b4  a safetensors file is opened
b5  writing replaces an old bundle whole, leaves nothing half-written, and takes the place of nothing but a bundle
b6  what was read can be asked for; what changed since is noticed
b7  a full disk leaves nothing behind and is told as what it is
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from fst.errors import ConfigError, DataError, IntegrityError
from fst.files import document
from fst.store.bundle import Bundle, read_bundle, write_bundle
from support.store_toys import toy_adapter, toy_bundle

pytest_plugins = ("support.store_fixtures",)

FILES = [
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "evaluation.json",
    "prompts.json",
]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return toy_bundle(tmp_path / "bundle", adapter=toy_adapter(tmp_path / "adapter"))


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rewrite(bundle: Bundle, **changes: Any) -> None:
    """Put another manifest in the bundle's place, in the form that it is written in."""
    (bundle.folder / "manifest.json").write_text(document({**bundle.manifest, **changes}), encoding="utf-8")


def test_b1_equal_inputs_give_equal_bytes(bundle: Bundle, tmp_path: Path) -> None:
    again = toy_bundle(tmp_path / "another place", adapter=toy_adapter(tmp_path / "another adapter"))
    assert tree(again.folder) == tree(bundle.folder)
    assert again.id == bundle.id == hashlib.sha256((bundle.folder / "manifest.json").read_bytes()).hexdigest()
    prompts, evaluation = bundle.prompts(), bundle.evaluation()
    manifest = dict(reversed(bundle.manifest.items()))
    documents = {"evaluation.json": evaluation, "prompts.json": prompts}
    third = write_bundle(tmp_path / "third", manifest, documents, bundle.adapter)
    assert third.id == bundle.id, "the manifest's own list of files is made anew"


def test_b1_anything_else_gives_another_id(bundle: Bundle, tmp_path: Path) -> None:
    same = tmp_path / "adapter"
    others = [
        toy_bundle(tmp_path / "1", reward=0.25, adapter=same),
        toy_bundle(tmp_path / "2", adapter=toy_adapter(tmp_path / "a2", value=0.25)),
        toy_bundle(tmp_path / "3", adapter=None),
        toy_bundle(tmp_path / "4", adapter=same, start="a" * 64),
    ]
    assert len({bundle.id, *(other.id for other in others)}) == 5


def test_b1_the_manifest_lists_every_other_file(bundle: Bundle) -> None:
    assert sorted(tree(bundle.folder)) == sorted([*FILES, "manifest.json"])
    assert bundle.manifest["files"] == {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for path, content in tree(bundle.folder).items()
        if path != "manifest.json"
    }
    assert read_bundle(bundle.folder) == bundle


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "gone"])
def test_b2_damage_to_a_file_is_refused_and_named(bundle: Bundle, path: str, damage: str) -> None:
    file = bundle.folder / path
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"flip": flipped, "cut": content[:-1], "longer": content + b" ", "empty": b""}[damage])
    with pytest.raises(IntegrityError, match=path):
        read_bundle(bundle.folder)


def test_b2_a_file_that_the_manifest_does_not_list_is_refused(bundle: Bundle) -> None:
    for path in ("more.json", "adapter/more.safetensors", "deep/er/more.json"):
        extra = bundle.folder / path
        extra.parent.mkdir(exist_ok=True, parents=True)
        extra.write_text("{}", encoding="utf-8")
        with pytest.raises(IntegrityError, match=f"{path}: not in the manifest"):
            read_bundle(bundle.folder)
        extra.unlink()
    (bundle.folder / "manifest.sig").write_text("signature", encoding="utf-8")
    assert read_bundle(bundle.folder).id == bundle.id, "a signature is beside the manifest, not in it"


def test_b2_no_byte_of_the_manifest_can_change_without_another_id(bundle: Bundle) -> None:
    manifest = bundle.folder / "manifest.json"
    content = manifest.read_bytes()
    for place in range(len(content)):
        manifest.write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
        try:
            assert read_bundle(bundle.folder).id != bundle.id
        except IntegrityError:
            continue


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has no manifest.json"),
        (b"", "not readable"),
        (b"{\xff", "not readable"),
        (b"[" * 100_000, "not readable"),
        (b'{"schema": NaN}', "not readable"),
        (b"[]\n", "not as this program writes it"),
        (b'{"schema": 1, "files": {}}', "not as this program writes it"),
        (b'{\n "schema": 1,\n "schema": 1\n}\n', "not as this program writes it"),
        (b'{\n "schema": 2\n}\n', "schema 2"),
        (b'{\n "files": {},\n "schema": 1\n}\n', "does not list the files"),
        (b'{\n "files": [],\n "schema": 1\n}\n', "does not list the files"),
    ],
)
def test_b2_a_manifest_that_is_none_is_refused(bundle: Bundle, content: bytes | None, says: str) -> None:
    manifest = bundle.folder / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(IntegrityError, match=says):
        read_bundle(bundle.folder)


def test_b2_a_place_without_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for place in ("nowhere", "file", "folder"):
        with pytest.raises(IntegrityError, match=f"{place} is no bundle"):
            read_bundle(tmp_path / place)


@pytest.mark.parametrize(
    "path", ["../x.json", "/etc/x.json", "a/../../x.json", "a//b.json", ".x.json", "manifest.json"]
)
def test_b3_a_path_that_leads_outside_is_refused_before_it_is_opened(bundle: Bundle, path: str) -> None:
    rewrite(bundle, files={**bundle.manifest["files"], path: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(IntegrityError, match="is no place for a file of a bundle"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("facts", [None, {}, {"bytes": "1", "sha256": "0" * 64}, {"bytes": 1, "sha256": "0" * 63}])
def test_b3_a_file_without_size_and_hash_is_refused(bundle: Bundle, facts: Any) -> None:
    rewrite(bundle, files={**bundle.manifest["files"], "x.json": facts})
    with pytest.raises(IntegrityError, match=r"no size and sha256 of x\.json"):
        read_bundle(bundle.folder)


def test_b3_a_size_that_is_not_the_file_s_is_refused(bundle: Bundle) -> None:
    facts = bundle.manifest["files"]["prompts.json"]
    rewrite(bundle, files={**bundle.manifest["files"], "prompts.json": {**facts, "bytes": facts["bytes"] + 1}})
    with pytest.raises(IntegrityError, match=r"prompts\.json has \d+ bytes instead of"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "state.pkl", "code.py", "x.json.pickle", "noend"])
def test_b3_only_json_and_safetensors_even_when_the_manifest_lists_them(bundle: Bundle, name: str) -> None:
    file = bundle.folder / "adapter" / name
    file.write_bytes(b"x")
    facts = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    rewrite(bundle, files={**bundle.manifest["files"], f"adapter/{name}": facts})
    with pytest.raises(IntegrityError, match=f"adapter/{name} may not be in a bundle"):
        read_bundle(bundle.folder)


def test_b3_half_an_adapter_is_refused(bundle: Bundle) -> None:
    (bundle.folder / FILES[0]).unlink()
    rewrite(bundle, files={path: facts for path, facts in bundle.manifest["files"].items() if path != FILES[0]})
    with pytest.raises(IntegrityError, match="does not list the files"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("path", ["prompts.json", "manifest.json", "adapter", "manifest.sig", "extra"])
def test_b3_a_link_is_refused_though_its_content_is_right(bundle: Bundle, tmp_path: Path, path: str) -> None:
    place, elsewhere = bundle.folder / path, tmp_path / "elsewhere"
    if place.exists():
        place.rename(elsewhere)
    place.symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match=f"{path}: a bundle holds plain files only"):
        read_bundle(bundle.folder)


def test_b3_a_device_is_refused_and_not_waited_for(bundle: Bundle) -> None:
    for path in ("prompts.json", "manifest.json"):
        (bundle.folder / path).unlink()
        os.mkfifo(bundle.folder / path)
        with pytest.raises(IntegrityError, match="plain files only"):
            read_bundle(bundle.folder)


def test_b4_a_safetensors_file_that_is_none_is_refused_though_its_hash_is_right(bundle: Bundle, tmp_path: Path) -> None:
    good = (bundle.folder / FILES[1]).read_bytes()
    for content in (b"", b"\x80\x04pickle", good[:-4], good + b"more", b"\xff" * 8 + good[8:]):
        (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(IntegrityError, match=r"new/adapter/adapter_model\.safetensors is no safetensors file"):
            toy_bundle(tmp_path / "new", adapter=tmp_path / "adapter")
        assert not (tmp_path / "new").exists()


def test_b5_an_old_bundle_is_replaced_whole(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "manifest.sig").write_text("old", encoding="utf-8")
    new = toy_bundle(bundle.folder, reward=0.75)
    assert sorted(tree(bundle.folder)) == ["evaluation.json", "manifest.json", "prompts.json"]
    assert read_bundle(bundle.folder) == new
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "bundle"]


def test_b5_a_write_that_fails_leaves_the_old_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    before = tree(bundle.folder)
    with pytest.raises(DataError, match=r"evaluation\.json cannot be written"):
        toy_bundle(bundle.folder, reward=math.nan)
    with pytest.raises(DataError, match=r"manifest\.json cannot be written"):
        write_bundle(bundle.folder, {"schema": 1, "lone": "\ud800"}, {"prompts.json": {}, "evaluation.json": {}}, None)
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(DataError, match=r"has no adapter_config\.json"):
        toy_bundle(bundle.folder, adapter=tmp_path / "adapter")
    with pytest.raises(IntegrityError, match="does not list the files"):
        write_bundle(bundle.folder, {"schema": 1}, {"prompts.json": {}}, None)
    assert tree(bundle.folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "bundle"]


def test_b5_it_takes_the_place_of_nothing_but_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years", encoding="utf-8")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("mine", "file", "link"):
        with pytest.raises(ConfigError, match=f"{name} .*name another place"):
            toy_bundle(tmp_path / name)
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years"
    (tmp_path / "empty").mkdir()
    assert toy_bundle(tmp_path / "empty").folder == tmp_path / "empty"


def test_b6_what_was_read_can_be_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.prompts()["letters"]["prompts"][0] == {"id": "p1", "text": "sort, then reverse ✓"}
    assert bundle.evaluation()["letters"]["reward"] == 0.5
    assert bundle.adapter == bundle.folder / "adapter"
    assert bundle.gate() is None
    documents = {"prompts.json": {}, "evaluation.json": {}, "gate.json": {"verdict": "release"}}
    released = write_bundle(tmp_path / "released", {"schema": 1}, documents, None)
    assert released.gate() == {"verdict": "release"}
    assert released.adapter is None


def test_b6_a_document_that_changed_since_is_not_handed_out(bundle: Bundle) -> None:
    for path, use in (("prompts.json", bundle.prompts), ("evaluation.json", bundle.evaluation)):
        values = json.loads((bundle.folder / path).read_bytes())
        (bundle.folder / path).write_text(document({**values, "more": {}}), encoding="utf-8")
        with pytest.raises(IntegrityError, match=path):
            use()


def test_b7_a_full_disk_leaves_nothing_behind(tiny_disk: Path, tmp_path: Path) -> None:
    small = toy_bundle(tiny_disk / "bundle")
    before = tree(tiny_disk)
    adapter = toy_adapter(tmp_path / "adapter", kilobytes=100)
    for place in ("bundle", "new"):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            toy_bundle(tiny_disk / place, adapter=adapter)
        assert caught.value.errno == errno.ENOSPC
        assert tree(tiny_disk) == before
        assert list(tiny_disk.iterdir()) == [small.folder]
