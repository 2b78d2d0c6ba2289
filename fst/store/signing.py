"""Ed25519 signatures of manifests. The only file that imports cryptography.

A signature is the text of `manifest.sig`: base64 and a newline. Since a manifest addresses every byte of its bundle,
so does the signature. A key is read when it is needed and shown nowhere; neither is what the environment says of it,
where somebody may have put the key itself.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fst.errors import ConfigError, IntegrityError, MissingDependency

KEY_FILE, PASSWORD = "FST_SIGNING_KEY", "FST_SIGNING_PASSWORD"


def sign(manifest: bytes, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The signature of a manifest with the private key in the PEM file that FST_SIGNING_KEY names, None when it
    names none. Raises ConfigError for a file that holds no such key, or one with another password."""
    if not environment.get(KEY_FILE):
        return None
    return base64.b64encode(_private_key(environment).sign(manifest)) + b"\n"


def verify(manifest: bytes, signature: bytes | None, public_key: Path, name: str) -> None:
    """Raise IntegrityError unless a manifest's signature (None: it has none) was made with the private key of a public
    one; `name` is what the message calls the bundle. Raises ConfigError for a file that is no public key."""
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
        raise ConfigError(f"{KEY_FILE}: must be the path of a readable PEM file") from None  # the cause says the path
    try:
        key = serialization.load_pem_private_key(content, password.encode() if password else None)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as exc:
        raise ConfigError(f"{KEY_FILE}: no private key in PEM, or {PASSWORD} is not its password") from exc
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
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as exc:
        raise MissingDependency(
            "signatures need the package cryptography: pip install 'fast-slow-training[pipelines]'"
        ) from exc
    return ed25519, serialization, exceptions
