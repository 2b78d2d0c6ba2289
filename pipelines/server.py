"""The Prefect server that flows, deployments and the watcher share. Two servers on one database lose each other's runs,
so a command takes the server that is there:

    1. the one that PREFECT_API_URL or Prefect's active profile names
    2. the one at the address where `prefect server start` serves (127.0.0.1:4200)
    3. `deploy` starts one there and ends it; a flow has Prefect start one for itself alone; the watcher goes on looking
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

from pipelines.background import NotReady, beside, until

START_SECONDS = 600.0  # it makes its database first; a server that fails ends before
LOG = Path("reports/flows/prefect.log")


def find() -> str | None:
    """URL of the API of the server that is there, which is then in force for this process and its children. None
    without a server. Raises NotReady when the one that is named does not answer."""
    settings = get_current_settings()
    if named := settings.api.url:
        if not reachable(named):
            raise NotReady(
                f"no Prefect server answers at {named}; start it, name another one with PREFECT_API_URL, or unset that"
            )
        return named
    url = _usual()
    if not answers(url):
        return None
    print(f"Prefect server: {url} (found; PREFECT_API_URL names another)", file=sys.stderr, flush=True)
    _use(url)
    return url


@contextmanager
def shared(root: Path) -> Iterator[str]:
    """The server that is there, or one that runs as long as the block; yields the URL of its API."""
    if url := find():
        yield url
        return
    server, log = get_current_settings().server.api, root / LOG
    command = (sys.executable, "-m", "prefect", "server", "start", "--host", server.host, "--port", str(server.port))
    with beside(command, {}, log, root) as process:
        url = _usual()
        until(lambda: answers(url), process, log, START_SECONDS)
        print(f"Prefect server: {url} (started; ends with this command)", file=sys.stderr, flush=True)
        _use(url)
        yield url


def answers(url: str) -> bool:
    """Whether a Prefect server on this machine is up behind the URL of its API."""
    return local(f"{url}/health")[:5] == b"true"


def local(url: str) -> bytes:
    """What a server on this machine says with status 200, past any proxy; empty where it does not."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bytes(answer.read()) if answer.status == 200 else b""
    except (OSError, ValueError, HTTPException):  # the last: it stopped in the middle
        return b""


def reachable(url: str) -> bool:
    """Whether anything answers at a URL, if only that it wants a key."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _usual() -> str:
    server = get_current_settings().server.api
    return f"http://{server.host}:{server.port}/api"


def _use(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
