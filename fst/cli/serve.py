"""The gateway, and its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from fst.cli.options import SETTINGS, Channel, Settings
from fst.errors import ConfigError
from fst.extras import require

keys = App(name="keys", help="Manage the API keys of the gateway.")


def serve(*, channel: Channel = None, settings: Settings = SETTINGS) -> None:
    """Serve a channel's release over an OpenAI-compatible API, with a page at /.

    A new release of the channel is swapped in without dropping a request.

    Example: fst serve --channel prod --set serve.port=8080
    """
    import logging
    from functools import partial

    require("serving")
    params = settings.read()
    from fst.monitoring.dashboard import dashboard_routes
    from fst.serving.build import allowed, build, run
    from fst.stages.places import Places

    places = Places()
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, which may hold secrets
    gateway = build(params, places.fetched, channel or params.store.channel)
    run(gateway, dashboard_routes(params, places, gateway.state, partial(allowed, gateway)))


@keys.command
def add(
    tenant: str,
    /,
    *,
    admin: bool = False,
    only: Literal["ask", "feedback"] | None = None,
    file: Path | None = None,
    settings: Settings = SETTINGS,
) -> None:
    """Make a key and print it once; the file keeps only its digest.

    Example: fst keys add alice
    Example: fst keys add alice --only ask

    Args:
        tenant: The tenant that the key stands for.
        admin: The key may also roll a release back.
        only: The key may only ask, or only give feedback on the tenant's responses; both if not given.
        file: Key file; serve.keys of params.yaml if not given, else keys.json.
    """
    from fst.serving.keys import add_key

    if admin and only:
        raise ConfigError("--admin and --only: an admin may do both; name one of the two")
    known = settings.read().serve.keys
    place = file or Path(known or "keys.json")
    print(add_key(place, tenant, "admin" if admin else only or "user"))
    if str(place) != known:
        print(f"put `keys: {place}` under `serve` in params.yaml, or say --set serve.keys={place}")
