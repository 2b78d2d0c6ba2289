"""Ed25519 signatures of manifests, over the package cryptography.

A signature is the text of `manifest.sig`: base64 and a newline. Since a manifest addresses every byte of its bundle,
its signature covers the bundle. A key is read when it is needed and never shown, and neither is the value of its
environment variable, since somebody may have put the key itself there.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fst.errors import ConfigError, IntegrityError
from fst.extras import require

KEY_FILE, PASSWORD = "FST_SIGNING_KEY", "FST_SIGNING_PASSWORD"


def sign(manifest: bytes, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """Sign a manifest with the private key in the PEM file that FST_SIGNING_KEY names; None when the variable is unset.
    Raises ConfigError for a file without an Ed25519 key and for a wrong password."""
    if not environment.get(KEY_FILE):
        return None
    return base64.b64encode(_private_key(environment).sign(manifest)) + b"\n"


def verify(manifest: bytes, signature: bytes | None, public_key: Path, name: str) -> None:
    """Check a manifest's signature, None if it has none, against a public key in PEM; `name` is the bundle in messages.
    Raises IntegrityError when it is missing or by another key, ConfigError when the file holds no public key."""
    key = _public_key(public_key)
    *_, exceptions = _library()
    if signature is None:
        raise IntegrityError(f"{name} is not signed, and store.public_key asks for it; publish it with {KEY_FILE} set")
    try:
        key.verify(base64.b64decode(signature.strip(), validate=True), manifest)
    except (exceptions.InvalidSignature, binascii.Error) as exc:
        raise IntegrityError(f"{name} is not signed with the key of {public_key}; do not use it") from exc


def _private_key(environment: Mapping[str, str]) -> Any:
    ed25519, serialization, exceptions = _library()
    password = environment.get(PASSWORD)
    try:
        content = Path(environment[KEY_FILE]).read_bytes()
    except (OSError, ValueError):
        raise ConfigError(f"{KEY_FILE}: must be the path of a readable PEM file") from None  # the cause names the path
    try:
        key = serialization.load_pem_private_key(content, password.encode() if password else None)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{KEY_FILE}: is no private key in PEM, or {PASSWORD} is not its password") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{KEY_FILE}: is not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`")
    return key


def _public_key(path: Path) -> Any:
    ed25519, serialization, exceptions = _library()
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, exceptions.UnsupportedAlgorithm) as exc:
        raise ConfigError(f"store.public_key: {path} is no public key in PEM; `openssl pkey -pubout` makes it") from exc
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigError(f"store.public_key: {path} is not an Ed25519 key")
    return key


def _library() -> tuple[ModuleType, ModuleType, ModuleType]:
    require("signing")
    from cryptography import exceptions
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519, serialization, exceptions
