"""What the commands that watch live traffic do."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fst.cli.options import read_params
from fst.config import Params
from fst.errors import ConfigError
from fst.stages.places import Places

if TYPE_CHECKING:
    from fst.monitoring.alerts import Sink
    from fst.monitoring.watch import Watcher
    from fst.store.bundle import Bundle

SETTLED_SECONDS = 1.0  # after a window's last request, for feedback on its way


def monitor(options: argparse.Namespace) -> None:
    """Watch, until stopped."""
    params, places = read_params(options), Places()
    channel = options.channel or params.store.channel
    if options.report:
        watcher = _watcher(params, places, channel)
        watcher.look()
        print(f"written: {_report(watcher, places, channel)}")
    elif options.once:
        from fst.monitoring.alerts import channels, tell

        alerts = _watcher(params, places, channel).look()
        for alert in alerts:
            tell(alert, channels(params.alerts))
            print(alert.sentence)
        print(f"{len(alerts)} alerts; windows and scores: {places.monitoring / 'windows.jsonl'}")
    else:
        follow(params, places, channel, [])


def follow(params: Params, places: Places, channel: str, sinks: Sequence[Sink]) -> None:
    """Look at the log again and again, until stopped; every alert goes to `sinks` first, then to the channels of
    params.yaml, then a report is written about it."""
    from fst.monitoring.alerts import channels, tell

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, which may hold secrets
    everybody = [*sinks, *channels(params.alerts)]
    watcher = _watcher(params, places, channel)
    watcher.look()
    print(f"watching channel {channel}: {params.traffic.folder}", flush=True)
    while True:
        time.sleep(params.drift.poll_seconds)
        for alert in watcher.look(settled_seconds=SETTLED_SECONDS):
            tell(alert, everybody)
            threading.Thread(target=_reported, args=(watcher, places, channel), daemon=True).start()


def _watcher(params: Params, places: Places, channel: str) -> Watcher:
    from fst.monitoring.watch import Watcher

    return Watcher(
        places.root / params.traffic.folder, places.monitoring, channel, params.drift, _served(params, places, channel)
    )


def _served(params: Params, places: Places, channel: str) -> Callable[[], Bundle | None]:
    """What a channel points at, fetched once a release."""
    from fst.store.releases import Releases

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


def _report(watcher: Watcher, places: Places, channel: str) -> Path:
    from fst.monitoring.reports import write_report

    reference, latest = watcher.window()
    if reference is None or len(latest) < 2:
        raise ConfigError(f"channel {channel!r} has no traffic to report yet; send some, or name another channel")
    name = f"{channel}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    return write_report(reference, latest, places.root / "reports" / "evidently", name, f"channel {channel}")


def _reported(watcher: Watcher, places: Places, channel: str) -> None:
    try:
        logging.getLogger("fst.monitor").info("report: %s", _report(watcher, places, channel))
    except Exception:  # a report that fails never stops the watching
        logging.getLogger("fst.monitor").exception("no report was written")


def bench_drift(options: argparse.Namespace) -> None:
    """False alarms and detections on simulated traffic of the lab."""
    from fst.bench.drift import drift_table

    params = dataclasses.replace(read_params(options).drift)
    for line in drift_table(params, options.windows, options.trials):
        print(line, flush=True)
