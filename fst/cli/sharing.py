"""Taking results elsewhere: a release to the Hugging Face hub, a run's records into tables."""

from __future__ import annotations

import re
from pathlib import Path

from fst.cli.options import SETTINGS, Reference, Settings, lines
from fst.errors import ConfigError


def push(
    repository: str,
    /,
    *,
    bundle: Reference | None = None,
    to: Path | None = None,
    public: bool = False,
    settings: Settings = SETTINGS,
) -> None:
    """Upload a release to the Hugging Face hub: adapter, prompts, evaluation and a model card.

    PEFT and vLLM load the repository as it is. The token is that of `hf auth login`, or HF_TOKEN.

    Example: fst push my-org/sorting
    Example: fst push my-org/sorting --to exported

    Args:
        repository: ORG/NAME.
        bundle: A channel, an id or the folder of a bundle; store.channel of params.yaml if not given.
        to: Write the same files into this folder instead, without a network.
        public: Make the repository public; private if not given.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository):
        raise ConfigError(f"{repository!r} is no name of a repository; write ORG/NAME")
    params = settings.read()
    from fst.release.references import References

    found = References.of(params).bundle(bundle or params.store.channel)
    from fst.release import hub

    if to:
        lines([f"bundle {found.id[:12]} written: {hub.write_repository(found, repository, to)}"])
    else:
        lines([f"bundle {found.id[:12]} uploaded: {hub.push(found, repository, public)}"])


def export(run: Path, /, *, parquet: bool = False, out: Path | None = None) -> None:
    """Write a run's rollouts and prompts as tables: JSON lines, or Parquet.

    Example: fst export runs/lab-sort-desc-add-one-fst-s0 --parquet

    Args:
        run: A run folder, finished or not.
        parquet: Write rollouts.parquet and prompts.parquet.
        out: Folder of the tables; reports/export/<run> if not given.
    """
    if not run.exists():
        raise ConfigError(f"{run}: no such run folder; name one, such as runs/NAME")
    from fst.runs.export import export_run

    written = export_run(run, out or Path("reports") / "export" / run.resolve().name, parquet)
    lines(f"{count} rows: {file}" for file, count in written)
