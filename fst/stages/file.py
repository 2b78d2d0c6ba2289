"""A problem file that is no domain yet, looked at as the stages `prepare` and `validate` would look at it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fst.config import Params
from fst.data.families.jsonl import file_of
from fst.data.validation import Validation, check_raw, require, validate_prepared, write_page
from fst.models.reader import load_reader
from fst.stages.prepare import deal_into


def validate_file(params: Params, spec: str, page: Path) -> list[Validation]:
    """What is found in the lines of a problem file, and in its problems as they are dealt. Raises ValidationFailed for
    a critical finding, as the stages do, and DataError as `load_domain` does; the page is written all the same."""
    found = [check_raw(spec, page)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / (file_of(spec) or Path(spec)).stem
        deal_into(params, spec, folder)
        found.append(validate_prepared(folder, params.validation, load_reader(params.model).room(params)))
    write_page(found, page)
    require(found, page)
    return found
