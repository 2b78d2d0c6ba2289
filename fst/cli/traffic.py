"""Live traffic and problem files: sending a scenario, watching what comes, and making problems of it."""

from __future__ import annotations

from pathlib import Path

from fst.cli.options import MODEL, SETTINGS, Channel, ModelSettings, Settings, Verifier, check_spec, show
from fst.errors import DataError
from fst.extras import require
from fst.types import scored_with


def validate(data: Path, *, verifier: Verifier = None, settings: ModelSettings = MODEL) -> None:
    """Run the data suites on your own problem file, before you make it a domain.

    The verdict is the same as that of the stages prepare and validate. Offending rows are named. Exit code 5: the data
    broke a critical expectation.

    Example: fst validate my.jsonl
    Example: fst validate tickets.jsonl --verifier choice

    Args:
        data: A JSONL file, one problem per line: id, question, answer.
    """
    params, spec = settings.read(), scored_with(f"jsonl:{data}", verifier or "")
    check_spec(spec)
    from fst.data.validation import table
    from fst.stages.file import validate_file
    from fst.stages.places import Places

    page = Places().raw_page(data.stem)
    found = validate_file(params, spec, page)
    show(*map(table, found), f"page: {page}")


def simulate(
    scenario: Path,
    /,
    *,
    url: str = "http://127.0.0.1:8080",
    key_env: str = "FST_API_KEY",
    out: Path = Path("reports/simulated.jsonl"),
    quiet: bool = False,
) -> None:
    """Send a traffic scenario to a gateway, and print what came back.

    A scenario sets the domains, their mix over time, the rate and the share of feedback; the files in data/scenarios/
    explain every key.

    Example: fst simulate data/scenarios/new_domain.yaml --url http://127.0.0.1:8080

    Args:
        scenario: A scenario file.
        url: Address of the gateway.
        key_env: Environment variable with the API key.
        out: Where every exchange is recorded, one JSON line each.
        quiet: Show no progress.
    """
    import asyncio
    import os

    from rich.console import Console
    from rich.progress import Progress

    from fst.traffic.scenario import load_scenario
    from fst.traffic.simulate import Exchanged, Recorder, Target, replay, summary_table

    plan = load_scenario(scenario)
    recorder = Recorder(out)
    target = Target(url, os.environ.get(key_env, ""))
    with Progress(disable=quiet) as progress:
        bar = progress.add_task(scenario.stem, total=plan.seconds)

        def heard(exchanged: Exchanged) -> None:
            recorder(exchanged)
            progress.update(bar, completed=exchanged.moment)

        asyncio.run(replay(plan, target, heard))
    recorder.close()
    if recorder.exchanges and not any(one.status for one in recorder.exchanges):
        raise DataError(f"{url}: nobody answered there; start the gateway with `fst serve`")
    Console().print(summary_table(recorder.exchanges))
    print(f"written: {out}")


def ingest(*, from_log: str, since: float = 0.0, no_dvc: bool = False, settings: Settings = SETTINGS) -> None:
    """Turn scored traffic of a domain into a problem file that DVC versions.

    Comments on wrong answers become feedback that reflection reads. Tenants whose feedback contradicts the others' are
    named and left out. The file is written to data/traffic/, and the data suites validate it. Exit code 5: it broke a
    critical expectation.

    Example: fst ingest --from-log letters

    Args:
        from_log: A domain that is served, or a new one's name.
        since: Leave out traffic from before this time, in seconds since the epoch.
        no_dvc: Write and validate the file, without `dvc add`.
    """
    import subprocess
    import sys

    require("monitoring")
    params = settings.read()
    from fst.data.validation import check_raw, table
    from fst.monitoring.collected import collected
    from fst.release.adaptation import FOLDER
    from fst.stages.places import Places
    from fst.traffic.problems import write_problems

    places = Places()
    found = collected(Path(params.traffic.folder), places.monitoring, from_log, since)
    named = found.suspects
    found = found.without(named)
    pairs = found.lessons(params)
    file = write_problems(pairs, Path(FOLDER), from_log, found.comments, found.tellers)
    for suspect in named:
        print(f"left out: {suspect.sentence}")
    print(table(check_raw(f"jsonl:{file}", places.raw_page(file.stem))))
    if not no_dvc:
        done = subprocess.run(
            (sys.executable, "-P", "-m", "dvc", "add", "--quiet", str(file)), capture_output=True, text=True
        )
        if done.returncode:
            raise DataError(
                f"{file} is written, but DVC does not version it: {done.stderr.strip()}; --no-dvc leaves it so"
            )
    print(f"{len(pairs)} problems: {file}\nto train on it: fst train --data {file}")


def monitor(
    *, channel: Channel = None, once: bool = False, report: bool = False, settings: Settings = SETTINGS
) -> None:
    """Watch the traffic log for drift and new domains, until stopped.

    Traffic is compared with the release's validation traffic. Alerts go to the channels in params.yaml and to
    reports/monitoring/.

    Example: fst monitor --channel prod

    Args:
        once: Judge what has arrived since the last time, then exit.
        report: Write an Evidently report on the latest window, then exit.
    """
    require("monitoring")
    params = settings.read()
    from fst.monitoring import follow
    from fst.monitoring.alerts import channels, tell
    from fst.stages.places import Places

    places = Places()
    watched = channel or params.store.channel
    if not (once or report):
        follow.follow(params, places, watched)
    watcher = follow.watcher_of(params, places, watched)
    watcher.look()
    if report:
        print(f"written: {follow.report(watcher, places, watched)}")
        return
    alerts = list(watcher.untold)
    for alert in alerts:
        tell(alert, channels(params.alerts))
        print(alert.sentence)
    watcher.told()
    print(f"{len(alerts)} alerts; windows and scores: {places.monitoring / 'windows.jsonl'}")
