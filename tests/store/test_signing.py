"""Signatures:

s1  what a private key signed, its public key and no other verifies, and nothing that was changed since
s2  a release is signed when the environment names a key; with a public key set, what is unsigned or signed otherwise is
    neither published, fetched nor released, and what was fetched without a signature is fetched anew
s3  a key that is missing, broken, protected or of another kind is a sentence
s4  no key material, password or credential is in a message, a bundle or a store
s5  without cryptography, what asks for no signature works
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fst.errors import ConfigError, IntegrityError, MissingDependency
from fst.store.objects import Objects
from fst.store.releases import Releases
from fst.store.signing import sign, verify
from support.store_toys import SECRET, toy_bundle

pytest_plugins = ("support.store_fixtures",)

PASSWORD = "planted-password-0123456789"


class Keys:
    """A key pair in two PEM files."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        folder.mkdir()
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / "key.pem", folder / "key.pub"
        lock: KeySerializationEncryption = NoEncryption()
        if password:
            lock = BestAvailableEncryption(password.encode())
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def others(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "other keys")


def test_s1_what_a_key_signed_its_public_key_verifies(keys: Keys, others: Keys) -> None:
    signature = sign(b"manifest", {"FST_SIGNING_KEY": str(keys.private)})
    assert signature == sign(b"manifest", {"FST_SIGNING_KEY": str(keys.private)}), "always the same"
    assert signature is not None
    verify(b"manifest", signature, keys.public, "bundle x")
    for manifest, given, key in (
        (b"manifest", signature, others.public),
        (b"Manifest", signature, keys.public),
        (b"manifest", sign(b"manifest", {"FST_SIGNING_KEY": str(others.private)}), keys.public),
        (b"manifest", b"", keys.public),
        (b"manifest", b"not base64!", keys.public),
        (b"manifest", signature[4:], keys.public),
        (b"manifest", "é".encode(), keys.public),
    ):
        with pytest.raises(IntegrityError, match="bundle x is not signed with the key of"):
            verify(manifest, given, key, "bundle x")
    with pytest.raises(IntegrityError, match=r"bundle x is not signed, and .*FST_SIGNING_KEY"):
        verify(b"manifest", None, keys.public, "bundle x")


def test_s1_without_a_key_nothing_is_signed() -> None:
    assert sign(b"manifest", {}) is None
    assert sign(b"manifest", {"FST_SIGNING_KEY": ""}) is None


def test_s1_a_key_with_a_password(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "protected", PASSWORD)
    environment = {"FST_SIGNING_KEY": str(keys.private), "FST_SIGNING_PASSWORD": PASSWORD}
    verify(b"manifest", sign(b"manifest", environment), keys.public, "bundle x")


def test_s2_only_what_is_signed_rightly_is_used(
    objects: Objects, keys: Keys, others: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, place = toy_bundle(tmp_path / "bundle"), tmp_path / "place"
    open_to_all, strict = Releases(objects), Releases(objects, keys.public)
    with pytest.raises(IntegrityError, match=r"is not signed, and store\.public_key"):
        strict.publish(bundle.folder)
    assert objects.list("") == []
    open_to_all.publish(bundle.folder)
    open_to_all.fetch(bundle.id, place)
    for _ in range(2):  # unsigned, then signed by somebody else
        with pytest.raises(IntegrityError, match="is not signed"):
            strict.fetch(bundle.id, tmp_path / "new")
        with pytest.raises(IntegrityError, match="is not signed"):
            strict.fetch(bundle.id, place)
        with pytest.raises(IntegrityError, match="is not signed"):
            strict.move(strict.channel("prod"), bundle.id, "release", "")
        monkeypatch.setenv("FST_SIGNING_KEY", str(others.private))
        open_to_all.publish(bundle.folder)
    assert not (tmp_path / "new").exists()
    assert strict.channel("prod").bundle is None
    monkeypatch.setenv("FST_SIGNING_KEY", str(keys.private))
    assert strict.publish(bundle.folder) == bundle.id, "signed anew, the same bundle"
    fetched = strict.fetch(bundle.id, place)
    assert (fetched.folder / "manifest.sig").read_bytes() == sign((bundle.folder / "manifest.json").read_bytes())
    assert strict.fetch(bundle.id, tmp_path / "new").id == bundle.id
    assert strict.move(strict.channel("prod"), bundle.id, "release", "").bundle == bundle.id
    monkeypatch.delenv("FST_SIGNING_KEY")
    stored = objects.list("")
    assert strict.publish(fetched.folder) == bundle.id, "what came with a signature keeps it"
    assert objects.list("") == stored
    assert not (bundle.folder / "manifest.sig").exists(), "the folder that was published is left as it is"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "must be the path of a readable PEM file"),
        (lambda path: path.mkdir(), "must be the path of a readable PEM file"),
        (lambda path: path.write_bytes(b"-----BEGIN PRIVATE KEY-----\n"), "no private key in PEM"),
        (lambda path: path.write_bytes(Path(__file__).read_bytes()), "no private key in PEM"),
        (lambda path: path.write_bytes(pem_of_another_kind()), "is not an Ed25519 key"),
    ],
)
def test_s3_a_private_key_that_cannot_be_used_is_a_sentence(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / "key.pem")
    with pytest.raises(ConfigError, match=f"^FST_SIGNING_KEY: .*{says}"):
        sign(b"manifest", {"FST_SIGNING_KEY": str(tmp_path / "key.pem")})


def pem_of_another_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_s3_a_public_key_that_cannot_be_used_is_a_sentence(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "rubbish").write_text("rubbish", encoding="utf-8")
    other = generate_private_key(SECP256R1()).public_key()
    (tmp_path / "other").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for path in (tmp_path / "nowhere", tmp_path / "rubbish", tmp_path / "other", keys.private):
        with pytest.raises(ConfigError, match=r"^store\.public_key: "):
            verify(b"manifest", b"", path, "bundle x")


def test_s4_nothing_secret_is_said_or_stored(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = Keys(tmp_path / "protected", PASSWORD)
    key = keys.private.read_text(encoding="ascii").splitlines()[1]
    secrets = (PASSWORD, SECRET, key)
    said = []
    bundle = toy_bundle(tmp_path / "bundle")
    releases = Releases(objects, keys.public)
    for path, password in (
        (str(keys.private), "wrong-" + PASSWORD),
        (str(keys.private), ""),
        (keys.private.read_text(encoding="ascii"), PASSWORD),  # the key itself, where its path belongs
        (str(tmp_path / PASSWORD), PASSWORD),
    ):
        monkeypatch.setenv("FST_SIGNING_KEY", path)
        monkeypatch.setenv("FST_SIGNING_PASSWORD", password)
        with pytest.raises(ConfigError) as caught:
            releases.publish(bundle.folder)
        said.append("".join(traceback.format_exception(caught.value)))
    monkeypatch.setenv("FST_SIGNING_KEY", str(keys.private))
    monkeypatch.setenv("FST_SIGNING_PASSWORD", PASSWORD)
    releases.publish(bundle.folder)
    releases.move(releases.channel("prod"), bundle.id, "release", "")
    releases.fetch(bundle.id, tmp_path / "place")
    said += [repr(releases), repr(objects), repr(vars(objects)), *capfd.readouterr()]
    stored = [objects.read(one.key)[0].decode("latin-1") for one in objects.list("")]
    files = [p.read_text("latin-1") for folder in ("bundle", "place") for p in (tmp_path / folder).rglob("*.*")]
    assert len(stored) == 5
    assert len(files) == 3 + 4
    for text in (*said, *stored, *files):
        for secret in secrets:
            assert secret not in text


def test_s5_without_cryptography_what_asks_for_no_signature_works(
    objects: Objects, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    bundle = toy_bundle(tmp_path / "bundle")
    releases = Releases(objects)
    releases.fetch(releases.publish(bundle.folder), tmp_path / "place")
    with pytest.raises(MissingDependency, match=r"pip install 'fast-slow-training\[signing\]'"):
        Releases(objects, keys.public).fetch(bundle.id, tmp_path / "place")
    monkeypatch.setenv("FST_SIGNING_KEY", str(keys.private))
    with pytest.raises(MissingDependency, match=r"pip install 'fast-slow-training\[signing\]'"):
        releases.publish(bundle.folder)
