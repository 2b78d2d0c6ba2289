"""The stage `prepare`: a domain's problems, dealt into splits and written down."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fst.config import Params
from fst.data.domains import load_domain
from fst.data.families.jsonl import file_of
from fst.data.prepared import write_prepared
from fst.data.types import SplitSizes
from fst.models.reader import load_reader
from fst.stages.workspace import Workspace


def prepare(workspace: Workspace, name: str) -> Path:
    """Write data/prepared/<name> and return the folder. A problem file is validated first, as it lies there: raises
    ValidationFailed with all offending rows, which reports/validation/<name>.html shows too."""
    params, places, spec = workspace.of(name), workspace.places, workspace.params.domain(name).full_spec
    folder, page = places.prepared(name).absolute(), places.raw_page(name).absolute()
    with contextlib.chdir(places.root):  # a problem file, and its verifier's, are named from there
        if file_of(spec):
            from fst.data.validation import check_raw

            check_raw(spec, page)
        deal_into(params, spec, folder)
    return places.prepared(name)


def deal_into(params: Params, spec: str, folder: Path) -> None:
    """Deal the problems of a spec into splits and write them into a folder, each with its length in the model's
    tokens."""
    reader = load_reader(params.model)
    domain = load_domain(spec, SplitSizes.of(params), params.prepare.seed)

    def tokens(questions: list[str]) -> list[int]:
        return [len(ids) for ids in reader.encode([reader.messages("", question) for question in questions])]

    write_prepared(domain, folder, tokens)
