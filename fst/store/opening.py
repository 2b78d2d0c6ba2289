"""Opening the store that `store.url` names."""

from __future__ import annotations

from pathlib import Path

from fst.config import StoreParams
from fst.errors import ConfigError
from fst.extras import require
from fst.store.local import LocalStore
from fst.store.objects import Objects


def open_store(params: StoreParams) -> Objects:
    """Return the store in a directory or a bucket, without contacting it yet. Raises ConfigError for a URL that is
    neither, MissingDependency for a bucket without boto3."""
    scheme, separator, rest = params.url.partition("://")
    if not params.url:
        raise ConfigError("store.url: is empty; name a directory or s3://bucket/prefix")
    if not separator:
        return LocalStore(Path(params.url))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ConfigError(f"store.url: {params.url!r} is neither a directory nor s3://bucket/prefix")
    require("s3")
    from fst.store.s3 import S3Store

    return S3Store(bucket, prefix.strip("/"), params.allow_unconditional_writes)
