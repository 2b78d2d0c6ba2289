"""A store in a bucket. The only file that imports boto3 and botocore.

Endpoint, region and credentials are those of the SDK's own chain (AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, AWS_PROFILE,
an instance's role ...); none is kept or shown. Writes are conditional, If-None-Match: * for what is new and If-Match
for what is replaced; whether the endpoint honours that is tried before the first write. Checksums are the caller's
sha256, so the SDK's own, which not every endpoint understands, are only made where the protocol asks for them.
boto3's transfer manager cannot write conditionally, therefore large files are cut into parts here.
"""

from __future__ import annotations

import contextlib
import io
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
from fst.store import s3_remedies as remedies
from fst.store.store import Missing, Stored, check_key

PART_BYTES = 8 * 1024 * 1024  # larger files go up in parts of this size; S3 takes none below 5 MiB
_BLOCK = 1024 * 1024
_ONLY_NEW = {"IfNoneMatch": "*"}
_PROBES = ".probe/"
_CREATE_ATTEMPTS = 4


@dataclass(frozen=True)
class Patience:
    """How long an endpoint may take: seconds to connect, and until each next piece of an answer; attempts in all.
    Waits between attempts add up to 3 seconds on average, so that a dead endpoint is given up within about 20."""

    connect_seconds: float = 4.0
    read_seconds: float = 5.0
    attempts: int = 3


class _Refused(StoreError):
    """A condition does not hold (status 409 or 412)."""


class _Unknown(StoreError):
    """A header or call that the endpoint does not know (status 501)."""


_BY_STATUS = {409: _Refused, 412: _Refused, 501: _Unknown}


class S3Store:
    """Objects below a prefix of a bucket. Nothing is contacted before the first call."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        allow_unconditional_writes: bool = False,
        patience: Patience | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._allow_unconditional_writes = allow_unconditional_writes
        self._patience = patience or Patience()
        self._part_bytes = part_bytes

    def read(self, key: str) -> tuple[bytes, str]:
        with self._asking(key):
            answer = self._client.get_object(**self._at(key))
            with contextlib.closing(answer["Body"]) as body:
                return body.read(), answer["ETag"]

    def download(self, key: str, path: Path) -> None:
        with self._body(key) as body, path.open("wb") as file:
            for block in body.iter_chunks(_BLOCK):
                file.write(block)

    def create(self, key: str, source: Path) -> None:
        for attempt in range(_CREATE_ATTEMPTS):
            time.sleep(attempt / 4)  # another writer is at it: its content is there soon
            if self._holds(key, source):
                return
            with contextlib.suppress(_Refused), self._asking(key):
                self._upload(key, source)
                return
        raise StoreError(f"{self._place} refuses to store {key}, though nothing is there; try again")

    def replace(self, key: str, data: bytes, tag: str | None) -> str:
        condition = {"IfMatch": tag} if tag else _ONLY_NEW
        if not self._conditional:
            self._require(key, tag)
            condition = {}
        try:
            with self._asking(key):
                return str(self._client.put_object(**self._at(key), Body=data, **condition)["ETag"])
        except (_Refused, Missing) as exc:
            now, new_tag = self._now(key)
            if now == data and new_tag:
                return new_tag  # it was this very write, whose answer was lost
            raise ChannelMoved(f"{key} in {self._place} was changed meanwhile; nothing was written") from exc

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
        pages = self._client.get_paginator("list_multipart_uploads")
        with self._asking("uploads"):
            uploads = [
                {"Bucket": self.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix)
                for upload in page.get("Uploads", ())
                if upload["Initiated"] < before
            ]
            probes = [self._at(probe.key) for probe in self.list(_PROBES) if probe.modified < before]
            for upload in [] if dry_run else uploads:
                self._client.abort_multipart_upload(**upload)
            for probe in [] if dry_run else probes:
                self._client.delete_object(**probe)
        return [at["Key"].removeprefix(self._prefix) for at in (*uploads, *probes)]

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
            # elsewhere a name like bucket.host is rarely in the DNS
            return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))
        except ValueError as exc:
            raise ConfigError("AWS_ENDPOINT_URL_S3: is no URL; write it as http://host:port") from exc
        except sdk.BotoCoreError as exc:
            raise ConfigError(f"the AWS settings of this environment cannot be used: {exc}") from exc

    @cached_property
    def _conditional(self) -> bool:
        """Whether the endpoint honours conditional writes, found out on an object made for that."""
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
            with contextlib.suppress(StoreError), self._asking("probe"):  # what stays is swept
                self._client.delete_object(**probe)

    def _require(self, key: str, tag: str | None) -> None:
        """All that can be done without conditional writes: look just before writing."""
        if not self._allow_unconditional_writes:
            raise StoreError(
                f"{self._place} ignores conditional writes (If-None-Match, If-Match): of two releases at once, one "
                f"would be lost; use another store, or, with one publisher only, set store.allow_unconditional_writes"
            )
        if self._now(key)[1] != tag:
            raise ChannelMoved(f"{key} in {self._place} was changed meanwhile; nothing was written")

    def _now(self, key: str) -> tuple[bytes | None, str | None]:
        try:
            return self.read(key)
        except Missing:
            return None, None

    @contextlib.contextmanager
    def _body(self, key: str) -> Iterator[Any]:
        with self._asking(key), contextlib.closing(self._client.get_object(**self._at(key))["Body"]) as body:
            yield body

    def _holds(self, key: str, source: Path) -> bool:
        """Whether the file is stored already. Raises IntegrityError when other content is."""
        try:
            with source.open("rb") as file, self._body(key) as body:
                blocks = body.iter_chunks(_BLOCK)
                same = all(file.read(len(block)) == block for block in blocks) and not file.read(1)
        except Missing:
            return False
        if not same:
            raise IntegrityError(f"{key} in {self._place} is other content than {source}; what is stored never changes")
        return True

    def _upload(self, key: str, source: Path) -> None:
        """Raises _Refused when the key was taken meanwhile."""
        at, condition = self._at(key), _ONLY_NEW if self._conditional else {}
        with source.open("rb") as file:
            if source.stat().st_size <= self._part_bytes:
                self._client.put_object(**at, Body=file, **condition)
                return
            upload = {**at, "UploadId": self._client.create_multipart_upload(**at)["UploadId"]}
            parts = []
            try:
                for number, block in enumerate(iter(lambda: file.read(self._part_bytes), b""), 1):
                    done = self._client.upload_part(**upload, PartNumber=number, Body=io.BytesIO(block))
                    parts.append({"PartNumber": number, "ETag": done["ETag"]})
                self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
            except sdk.ClientError:  # the endpoint lives; after anything else the parts are left to `sweep`
                with contextlib.suppress(sdk.ClientError, sdk.BotoCoreError):
                    self._client.abort_multipart_upload(**upload)
                raise

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + (key if key.startswith(_PROBES) else check_key(key))}

    @property
    def _place(self) -> str:
        endpoint = urlsplit(self._client.meta.endpoint_url)
        host = endpoint.netloc.rpartition("@")[2]  # without a password that somebody put there
        return f"the bucket {self.bucket!r} at {endpoint.scheme}://{host}"

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[None]:
        """Turns what the SDK raises into this project's errors, or Missing."""
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
            raise IntegrityError(f"{key} in {self._place} was cut off on its way here; try again") from exc
        except (sdk.BotoCoreError, ResponseParserError) as exc:
            raise StoreError(f"{self._place}: {remedies.of_failure(exc)}") from exc
