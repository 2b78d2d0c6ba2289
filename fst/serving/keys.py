"""API keys. A key file holds sha256 digests, each with its tenant and role:

{"keys": [{"sha256": "...", "tenant": "alice", "role": "user" | "ask" | "feedback" | "admin"}]}

Feedback becomes training data, so it is a separate right: a key may ask (`ask`), give feedback on its tenant's
responses (`feedback`), or both (`user`). An `admin` may also roll a release back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fst.errors import ConfigError
from fst.files import write_atomic

Role = Literal["user", "ask", "feedback", "admin"]
Right = Literal["ask", "feedback", "admin"]
RIGHTS: dict[Role, frozenset[Right]] = {
    "user": frozenset({"ask", "feedback"}),
    "ask": frozenset({"ask"}),
    "feedback": frozenset({"feedback"}),
    "admin": frozenset({"ask", "feedback", "admin"}),
}
PREFIX = "fst-"
LOCAL = "local"  # the tenant of every caller if no keys are required


@dataclass(frozen=True)
class Caller:
    """The owner of a key."""

    tenant: str
    role: Role

    def may(self, right: Right) -> bool:
        return right in RIGHTS[self.role]


class Keys:
    """A key file, read again when it changes. Without a file every caller is the tenant `local`, a `user`."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._known, self._seen = file, dict[str, Caller](), (0, 0)
        self._read()

    @property
    def open(self) -> bool:
        """Whether no key is required."""
        return self._file is None

    def caller(self, authorization: str) -> Caller | None:
        """Return the caller that the header `Authorization` identifies; None for an unknown key. The key is compared
        with every known one, in constant time."""
        self._read()
        if self._file is None:
            return Caller(LOCAL, "user")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest, found = _digest(key.strip()), None
        for known, caller in self._known.items():
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _read(self) -> None:
        """Read the file if it changed. Raises ConfigError if the first reading fails; if a later one fails, the known
        keys stay."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._known, self._seen = _parse(self._file), seen
        except (OSError, ValueError, KeyError, TypeError) as exc:
            if not self._seen[0]:
                raise ConfigError(
                    f"serve.keys: {self._file} is not a key file ({exc}); make one with `fst keys add NAME`"
                ) from exc


def tenants_of(file: str) -> list[str]:
    """Return the names of all tenants that may have given feedback: those of a key file (empty path: none), and
    `local`. A file that cannot be read adds none."""
    try:
        known = _parse(Path(file)).values() if file else ()
    except (OSError, ValueError, KeyError, TypeError):
        known = ()
    return sorted({LOCAL, *(caller.tenant for caller in known)})


def add_key(file: Path, tenant: str, role: Role) -> str:
    """Make a key, add its digest to a file, and return the key, which is stored nowhere. Raises ConfigError for a bad
    tenant name or key file."""
    if not tenant or not tenant.isprintable() or len(tenant) > 64:
        raise ConfigError(f"{tenant!r}: a tenant's name is 1 to 64 printable characters")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["keys"] if file.exists() else []
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{file} is not a key file ({exc}); name another") from exc
    key = PREFIX + secrets.token_urlsafe(32)
    entries.append({"sha256": _digest(key), "tenant": tenant, "role": role})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps({"keys": entries}, indent=1) + "\n")
    file.chmod(0o600)
    return key


def _parse(file: Path) -> dict[str, Caller]:
    entries = json.loads(file.read_text(encoding="utf-8"))["keys"]
    found = {str(entry["sha256"]): Caller(str(entry["tenant"]), entry["role"]) for entry in entries}
    for caller in found.values():
        if caller.role not in RIGHTS:
            raise ValueError(f"role {caller.role!r} is none of {', '.join(RIGHTS)}")
    return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
