"""`fst bundles`: what is in the store of releases."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from fst.cli.options import SETTINGS, Reference, Settings, show
from fst.errors import ConfigError

if TYPE_CHECKING:
    from fst.release.references import References

bundles = App(name="bundles", help="Look at the bundles in the store, and remove those that nothing needs.")

AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs.")]


@bundles.command(name="list")
def list_all(*, as_json: AsJson = False, settings: Settings = SETTINGS) -> None:
    """List every bundle in the store, newest first.

    Example: fst bundles list
    """
    from fst.files import document
    from fst.release import tables, views

    listed = views.catalogue(_references(settings))
    if as_json:
        print(document([views.as_json(one) for one in listed]), end="")
    else:
        show(tables.list_table(listed))


@bundles.command(name="show")
def show_one(reference: Reference, /, *, as_json: AsJson = False, settings: Settings = SETTINGS) -> None:
    """Show one bundle: what it serves, its figures, its prompts, the gate's decision.

    Example: fst bundles show prod
    """
    from fst.files import document
    from fst.release import tables, views

    references = _references(settings)
    found = references.bundle(reference)
    shown = views.in_full(found, references.channels().get(found.id, []))
    if as_json:
        print(document(views.as_json(shown)), end="")
    else:
        show(tables.show_page(shown))


@bundles.command
def diff(first: Reference, second: Reference, /, *, settings: Settings = SETTINGS) -> None:
    """Compare two bundles: prompts side by side, figures, parameters.

    Example: fst bundles diff 3f2a91 prod
    """
    from fst.release import tables, views

    references = _references(settings)
    show(tables.diff_page(views.compare(references.bundle(first), references.bundle(second))))


@bundles.command
def gc(*, older_than_hours: float = 24.0, dry_run: bool = False, settings: Settings = SETTINGS) -> None:
    """Remove bundles that no channel ever pointed at, and uploads that were never finished.

    Example: fst bundles gc --older-than-hours 24 --dry-run

    Args:
        older_than_hours: Keep what is younger than this, in hours.
        dry_run: Only say what would be removed.
    """
    hours = older_than_hours
    if not 0 <= hours <= 24 * 365 * 100:
        raise ConfigError(f"--older-than-hours {hours:g}: is out of range; give hours, at least 0")
    removed = _references(settings).releases.collect(timedelta(hours=hours), dry_run)
    did = "would be removed" if dry_run else "removed"
    show(*removed, f"{len(removed)} {did}: what is older than {hours:g} hours and no channel ever pointed at")


def _references(settings: Settings) -> References:
    from fst.release.references import References

    return References.of(settings.read())
