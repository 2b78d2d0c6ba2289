"""Remedies for failures of an S3 endpoint, by the error codes of its answers and the names of the SDK's exceptions. The
endpoint's own message is not repeated, since it may echo what was sent."""

from __future__ import annotations

import socket

_CREDENTIALS = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_DENIED = "access denied; the credentials need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject there"
_UNKNOWN_KEY = "it rejects the credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
_REGION = "the bucket is in another region; set AWS_DEFAULT_REGION to that"
_BUSY = "it is overloaded or broken; try again later"
_DAMAGED = "it received other bytes than were sent; try again"
_SILENT = "it does not answer in time; check that it is up, and the network between"

_REMEDIES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct store.url",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": _UNKNOWN_KEY,
    "ExpiredToken": _UNKNOWN_KEY,
    "InvalidToken": _UNKNOWN_KEY,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "RequestTimeTooSkewed": "this machine's clock is off; set it",
    "BadDigest": _DAMAGED,
    "XAmzContentChecksumMismatch": _DAMAGED,
    "EntityTooLarge": "the file is larger than it takes in one request (5 GB on S3); use another store",
    "SlowDown": _BUSY,
    "ServiceUnavailable": _BUSY,
    "InternalError": _BUSY,
    "500": _BUSY,
    "503": _BUSY,
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "CredentialRetrievalError": _CREDENTIALS,
    "TokenRetrievalError": _CREDENTIALS,
    "SSOError": _CREDENTIALS,
    "ConnectTimeoutError": _SILENT,
    "ReadTimeoutError": _SILENT,
    "SSLError": "its certificate is not accepted; check https or http, or name its CA in AWS_CA_BUNDLE",
    "ProxyConnectionError": "the proxy cannot be reached; check HTTPS_PROXY and NO_PROXY",
    "gaierror": "its host name is unknown; check AWS_ENDPOINT_URL_S3 and the DNS",
    "EndpointConnectionError": "the connection is refused; check AWS_ENDPOINT_URL_S3, and that it is up",
    "ConnectionClosedError": "it closes the connection without an answer; check that it speaks S3, and https or http",
    "ParamValidationError": "this is no name for a bucket; correct store.url",
}


def of_answer(code: str, status: int) -> str:
    """Remedy for an error code that the endpoint answered."""
    return _REMEDIES.get(code, f"it answers {code or 'an error'} (HTTP {status}); check AWS_ENDPOINT_URL_S3")


def of_failure(exc: Exception) -> str:
    """Remedy for an exception of the SDK, by its own name or that of a base class."""
    below = getattr(exc, "kwargs", {}).get("error")
    unknown_host = isinstance(below, socket.gaierror) or isinstance(getattr(below, "__cause__", None), socket.gaierror)
    names = ["gaierror"] if unknown_host else [kind.__name__ for kind in type(exc).__mro__]
    found = [_REMEDIES[name] for name in names if name in _REMEDIES]
    return found[0] if found else f"it does not answer as S3 does ({names[0]}); check AWS_ENDPOINT_URL_S3"
