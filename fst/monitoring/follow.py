"""Watches a channel of a project: makes the watcher, writes reports, and runs the loop that sends alerts."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fst.config import Params
from fst.errors import ConfigError
from fst.monitoring.alerts import channels, tell
from fst.monitoring.outbox import Ask, Outbox
from fst.monitoring.watcher import Watcher
from fst.stages.places import Places
from fst.store.bundle import Bundle
from fst.store.releases import Releases

SETTLED_SECONDS = 1.0  # wait after a window's last request before judging it, for late feedback
log = logging.getLogger("fst.monitor")


def follow(params: Params, places: Places, channel: str, ask: Ask | None = None) -> NoReturn:
    """Look at the log every `drift.poll_seconds` until the process is stopped. Every alert is sent to the channels of
    the section `alerts`, and a report on its window is written. `ask`, if given, is called for each alert until an
    adaptation has begun. Raises ConfigError for an alert channel that cannot be used."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    everybody = channels(params.alerts)
    watcher = watcher_of(params, places, channel)
    if ask:
        Outbox(places.monitoring, channel, ask).keep_sending(params.drift.poll_seconds)
    print(f"watching channel {channel}: {params.traffic.folder}", flush=True)
    while True:
        watcher.look(settled_seconds=SETTLED_SECONDS)
        for alert in watcher.untold:
            tell(alert, everybody)
            threading.Thread(target=_reported, args=(watcher, places, channel), daemon=True).start()
        watcher.told()
        time.sleep(params.drift.poll_seconds)


def watcher_of(params: Params, places: Places, channel: str) -> Watcher:
    """Make the watcher that compares a channel's traffic with the release that the channel points at."""
    folder = places.root / params.traffic.folder
    return Watcher(folder, places.monitoring, channel, params.drift, _served(params, places, channel))


def report(watcher: Watcher, places: Places, channel: str) -> Path:
    """Write an Evidently report on the latest window. Raises ConfigError for a channel without traffic."""
    from fst.monitoring.reports import write_report  # Evidently takes seconds to import

    reference, latest = watcher.window()
    if reference is None or len(latest) < 2:
        raise ConfigError(f"channel {channel!r} has no traffic to report yet; send some, or name another channel")
    name = f"{channel}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    return write_report(reference, latest, places.root / "reports" / "evidently", name, f"channel {channel}")


def _reported(watcher: Watcher, places: Places, channel: str) -> None:
    with contextlib.suppress(AttributeError, OSError):  # only some systems have priorities per thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # an adaptation is about to begin
    try:
        log.info("report: %s", report(watcher, places, channel))
    except Exception:  # a report that fails never stops the watching
        log.exception("the report could not be written")


def _served(params: Params, places: Places, channel: str) -> Callable[[], Bundle | None]:
    """Make a function that returns the bundle the channel points at, fetched once per release; None without one."""
    releases = Releases.open(params.store)
    known: dict[str, Bundle] = {}

    def served() -> Bundle | None:
        bundle_id = releases.channel(channel).bundle
        if bundle_id is None:
            return None
        if bundle_id not in known:
            known.clear()
            known[bundle_id] = releases.fetch(bundle_id, places.fetched(bundle_id))
        return known[bundle_id]

    return served
