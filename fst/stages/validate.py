"""The stage `validate`: the data suites on a domain's prepared problems."""

from __future__ import annotations

from pathlib import Path

from fst.data.validation import require, validate_prepared, write_page
from fst.files import document, replacing
from fst.models.reader import load_reader
from fst.stages.workspace import Workspace


def validate(workspace: Workspace, name: str) -> Path:
    """Write data/validated/<name> and return the folder. Raises ValidationFailed with the offending rows; the page is
    written all the same."""
    params, places = workspace.of(name), workspace.places
    room = load_reader(params.model).room(params)
    found = [validate_prepared(places.prepared(name), params.validation, room)]
    page = places.validated(name) / "index.html"
    with replacing(places.validated(name)) as folder:
        (folder / "validation.json").write_text(document([v.as_dict() for v in found]), encoding="utf-8")
        write_page(found, folder / page.name)
    require(found, page)
    return places.validated(name)
