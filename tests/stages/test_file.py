"""One verdict on a problem file. F1 `fst validate` finds in a file what the stages prepare and validate find in it as a
domain, with the same severity; F2 where they stop, it stops, with the same words; F3 so with its verifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fst.cli import main
from fst.config import Params, load_params
from fst.data.validation import Validation
from fst.errors import FstError, ValidationFailed
from fst.stages.file import validate_file
from fst.stages.places import Places
from fst.stages.prepare import prepare
from fst.stages.validate import validate
from fst.stages.workspace import Workspace
from support.imports import ROOT

pytestmark = pytest.mark.slow
TICKETS = (ROOT / "data" / "examples" / "tickets.jsonl").read_text(encoding="utf-8")


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, verifier: str, sizes: str) -> Params:
    monkeypatch.chdir(folder)
    (folder / "tickets.jsonl").write_text(TICKETS, encoding="utf-8")
    domain = f"{{spec: 'jsonl:tickets.jsonl', verifier: '{verifier}', source: tickets.jsonl, start: base}}"
    (folder / "params.yaml").write_text(f"domains:\n  tickets: {domain}\nprepare: {sizes}\n", encoding="utf-8")
    return load_params(folder / "params.yaml")


def by_the_stages(params: Params) -> str | list[dict[str, object]]:
    """What they found, or the words that they stopped with."""
    workspace = Workspace(params)
    try:
        prepare(workspace, "tickets")
        validate(workspace, "tickets")
    except FstError as exc:
        return str(exc).partition("The page:")[0]
    (found,) = json.loads((Places().validated("tickets") / "validation.json").read_text(encoding="utf-8"))
    return list(found["findings"])


def by_the_command(params: Params) -> str | list[dict[str, object]]:
    try:
        _, found = validate_file(params, params.domain("tickets").full_spec, Path("page.html"))
    except FstError as exc:
        return str(exc).partition("The page:")[0]
    return list(Validation.as_dict(found)["findings"])


def test_f1_the_same_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = project(tmp_path, monkeypatch, "choice", "{}")
    found = by_the_command(params)
    assert found == by_the_stages(params)
    assert [one["severity"] for one in found if not one["success"]] == []  # type: ignore[index]
    assert main(["validate", "--data", "tickets.jsonl", "--verifier", "choice"]) == 0


@pytest.mark.parametrize(
    ("verifier", "sizes", "words"),
    [
        ("choice", "{validation: 4, test: 4}", "Every split has at least 16 problems.  (2 of 3 splits)"),
        ("multiple_choice", "{}", "'multiple_choice' needs a letter A-E"),
        ("checks.py:score", "{}", "checks.py: no such file, for the verifier 'checks.py:score'"),
    ],
)
def test_f2_f3_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verifier: str, sizes: str, words: str
) -> None:
    params = project(tmp_path, monkeypatch, verifier, sizes)
    said = by_the_command(params)
    assert words in said
    assert said == by_the_stages(params)
    with pytest.raises(FstError) as error:
        validate_file(params, params.domain("tickets").full_spec, Path("page.html"))
    assert isinstance(error.value, ValidationFailed) == (verifier != "checks.py:score")
    if verifier == "choice":
        assert "Give the splits more problems" in str(said)
        assert "Mend these rows" not in str(said)
