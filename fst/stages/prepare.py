"""The stage `prepare`: a domain's problems, dealt into splits and written down."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fst.data.domains import load_domain
from fst.data.prepared import write_prepared
from fst.data.types import SplitSizes
from fst.models.reader import load_reader
from fst.stages.workspace import Workspace
from fst.types import plain_spec


def prepare(workspace: Workspace, name: str) -> Path:
    """Write data/prepared/<name> and return the folder. A problem file is validated first, as it lies there: raises
    ValidationFailed with all offending rows, which reports/validation/<name>.html shows too."""
    params, places, spec = workspace.of(name), workspace.places, workspace.params.domain(name).full_spec
    reader = load_reader(params.model)
    file = plain_spec(spec)
    if file.endswith(".jsonl"):
        from fst.data.validation import check_raw

        check_raw(places.root / file.removeprefix("jsonl:"), places.raw_page(name))
    with contextlib.chdir(places.root):  # a problem file is named from there
        domain = load_domain(spec, SplitSizes.of(params), params.prepare.seed)

    def tokens(questions: list[str]) -> list[int]:
        return [len(ids) for ids in reader.encode([reader.messages("", question) for question in questions])]

    write_prepared(domain, places.prepared(name), tokens)
    return places.prepared(name)
