"""A store in a bucket, over boto3.

Endpoint, region and credentials come from the SDK's own chain (AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_PROFILE,
an instance's role ...); none is stored or shown. Each write is one conditional PUT (If-None-Match: * for a new key,
If-Match for a replacement), so an interrupted write leaves nothing behind; S3 takes up to 5 GB in one. Whether the
endpoint honours the conditions is probed before the first write. A file is sent with its SHA-256, which S3 verifies;
the SDK's own checksums, which not every endpoint understands, are limited to requests that must have one.
"""

from __future__ import annotations

import base64
import contextlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as sdk
from botocore.config import Config
from botocore.parsers import ResponseParserError

from fst.errors import ChannelMoved, ConfigError, IntegrityError, StoreError
from fst.files import file_sha256
from fst.store import s3_remedies as remedies
from fst.store.objects import Missing, Stored, check_key

_BLOCK = 1024 * 1024  # bytes
_ONLY_NEW = {"IfNoneMatch": "*"}
_PROBES = ".probe/"
_CREATE_ATTEMPTS = 4


@dataclass(frozen=True)
class Patience:
    """How long to wait for an endpoint: seconds to connect, seconds without data, attempts in total. The waits between
    attempts add up to 3 seconds on average, so a dead endpoint is given up after about 20 seconds."""

    connect_seconds: float = 4.0
    read_seconds: float = 5.0
    attempts: int = 3


class _Refused(StoreError):
    """A condition does not hold (HTTP 409 or 412)."""


class _Unknown(StoreError):
    """The endpoint does not implement a header (HTTP 501)."""


_BY_STATUS = {409: _Refused, 412: _Refused, 501: _Unknown}


class S3Store:
    """Objects below a prefix of a bucket. Nothing is contacted before the first call."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        allow_unconditional_writes: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._allow_unconditional_writes = allow_unconditional_writes
        self._patience = patience or Patience()

    def read(self, key: str) -> tuple[bytes, str]:
        with self._object(key) as found:
            return found["Body"].read(), found["ETag"]

    def download(self, key: str, path: Path) -> None:
        with self._object(key) as found, path.open("wb") as file:
            for block in found["Body"].iter_chunks(_BLOCK):
                file.write(block)

    def create(self, key: str, source: Path) -> None:
        checksum = base64.b64encode(bytes.fromhex(file_sha256(source))).decode()
        for attempt in range(_CREATE_ATTEMPTS):
            time.sleep(attempt / 4)  # the content of another writer will be visible soon
            if self._holds(key, source):
                return
            condition = _ONLY_NEW if self._conditional else {}
            with contextlib.suppress(_Refused), self._asking(key), source.open("rb") as file:
                self._client.put_object(**self._at(key), Body=file, ChecksumSHA256=checksum, **condition)
                return
        raise StoreError(f"{self._place} refuses to store {key}, though the key is free; try again")

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        condition = {"IfMatch": tag} if tag else _ONLY_NEW
        if not self._conditional:
            self._require(key, tag)
            condition = {}
        try:
            with self._asking(key):
                return str(self._client.put_object(**self._at(key), Body=data, **condition)["ETag"])
        except (_Refused, Missing) as exc:
            content, current = self._current(key)
            if content == data and current:
                return current  # this write succeeded earlier and its answer was lost
            raise self._moved(key) from exc

    def list(self, prefix: str) -> Sequence[Stored]:
        pages = self._client.get_paginator("list_objects_v2")
        with self._asking(prefix):
            return [
                Stored(o["Key"].removeprefix(self._prefix), o["LastModified"].astimezone(UTC), o["Size"])
                for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix)
                for o in page.get("Contents", ())
            ]

    def delete(self, key: str) -> None:
        with self._asking(key):
            self._client.delete_object(**self._at(key))

    def sweep(self, before: datetime, dry_run: bool) -> Sequence[str]:
        swept = [probe.key for probe in self.list(_PROBES) if probe.modified < before]
        for key in [] if dry_run else swept:
            self.delete(key)
        return swept

    # -- parts ------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> Any:
        config = Config(
            connect_timeout=self._patience.connect_seconds,
            read_timeout=self._patience.read_seconds,
            retries={"mode": "standard", "total_max_attempts": self._patience.attempts},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            session = boto3.session.Session()
            client = session.client("s3", config=config)
            if ".amazonaws.com" in client.meta.endpoint_url or "addressing_style" in (client.meta.config.s3 or {}):
                return client
            # other endpoints rarely have a DNS entry for bucket.host
            return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))
        except ValueError as exc:
            raise ConfigError("AWS_ENDPOINT_URL_S3: is not a URL; write it as http://host:port") from exc
        except sdk.BotoCoreError as exc:
            raise ConfigError(f"the AWS settings of this environment cannot be used: {exc}") from exc

    @cached_property
    def _conditional(self) -> bool:
        """Whether the endpoint honours conditional writes, tried on an object made for it."""
        probe = self._at(f"{_PROBES}{uuid.uuid4().hex}")
        with self._asking("probe"):
            self._client.put_object(**probe, Body=b"")
        try:
            for condition in (_ONLY_NEW, {"IfMatch": '"0123456789abcdef0123456789abcdef"'}):
                with contextlib.suppress(_Refused), self._asking("probe"):
                    self._client.put_object(**probe, Body=b"", **condition)
                    return False
            return True
        except _Unknown:
            return False
        finally:
            with contextlib.suppress(StoreError), self._asking("probe"):  # if it stays, `sweep` removes it
                self._client.delete_object(**probe)

    def _require(self, key: str, tag: str | None) -> None:
        """Compare the tag just before an unconditional write, if such writes are allowed."""
        if not self._allow_unconditional_writes:
            raise StoreError(
                f"{self._place} ignores conditional writes (If-None-Match, If-Match): of two releases at once, one "
                f"would be lost; use another store, or, with one publisher only, set store.allow_unconditional_writes"
            )
        if self._current(key)[1] != tag:
            raise self._moved(key)

    def _current(self, key: str) -> tuple[bytes | None, str | None]:
        try:
            return self.read(key)
        except Missing:
            return None, None

    def _moved(self, key: str) -> ChannelMoved:
        return ChannelMoved(f"{key} in {self._place} was changed in the meantime; nothing was written")

    @contextlib.contextmanager
    def _object(self, key: str) -> Iterator[dict[str, Any]]:
        """The endpoint's answer with an object's content as its open `Body`. Raises Missing."""
        with self._asking(key):
            found = self._client.get_object(**self._at(key))
            with contextlib.closing(found["Body"]):
                yield found

    def _holds(self, key: str, source: Path) -> bool:
        """Whether a file is stored already. Raises IntegrityError when the key holds other content."""
        try:
            with source.open("rb") as file, self._object(key) as found:
                blocks = found["Body"].iter_chunks(_BLOCK)
                same = all(file.read(len(block)) == block for block in blocks) and not file.read(1)
        except Missing:
            return False
        if not same:
            raise IntegrityError(f"{key} in {self._place} is other content than {source}; what is stored never changes")
        return True

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + (key if key.startswith(_PROBES) else check_key(key))}

    @property
    def _place(self) -> str:
        endpoint = urlsplit(self._client.meta.endpoint_url)
        host = endpoint.netloc.rpartition("@")[2]  # drops a password in the URL
        return f"the bucket {self.bucket!r} at {endpoint.scheme}://{host}"

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Translate the SDK's exceptions into the project's errors, or Missing."""
        try:
            yield
        except sdk.ClientError as exc:
            status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = exc.response.get("Error", {}).get("Code", "")
            if code == "NoSuchKey":
                raise Missing(key) from exc
            kind = _BY_STATUS.get(status, StoreError)
            raise kind(f"{self._place}: {remedies.of_answer(code, status)}") from exc
        except (sdk.IncompleteReadError, sdk.ResponseStreamingError) as exc:
            raise IntegrityError(f"{key} in {self._place} was cut off in transit; try again") from exc
        except (sdk.BotoCoreError, ResponseParserError) as exc:
            raise StoreError(f"{self._place}: {remedies.of_failure(exc)}") from exc
