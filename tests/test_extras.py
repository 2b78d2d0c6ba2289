"""What has to be installed. X1 every library that is imported is declared, in the core or in an extra; X2 the core
declares nothing that `fst` does not import; X3 fst/extras.py and pyproject.toml have the same extras; X4 an extra that
is missing is a sentence with the command that installs it, and the exit code of a user's mistake."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fst.cli import main
from fst.errors import MissingDependency
from fst.extras import EXTRAS, require
from pipelines.__main__ import main as flows
from support.imports import ROOT, imports

# What libraries of ours need and do not declare themselves, or choose at run time.
BEHIND_OTHERS = {"antlr4-python3-runtime"}
PART_OF = {"botocore": "boto3"}
APART = {"vllm", "verifiers", "trackio"}  # `make vllm`, `make verifiers`; the last wants an older Pillow
SHARED = {"opentelemetry": "opentelemetry-sdk"}  # packages that many distributions have a part of


def declared() -> dict[str, set[str]]:
    """Names of packages by extra, the core's under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {canonicalize_name(Requirement(line).name) for line in lines} for extra, lines in lists.items()}


@functools.cache
def used(*rooms: str) -> dict[str, str]:
    """Packages that are imported, each with a file that does."""
    owners = {
        module: canonicalize_name(names[0]) for module, names in importlib.metadata.packages_distributions().items()
    }
    found = {}
    for room in rooms:
        for file in (ROOT / room).rglob("*.py"):
            for name in imports(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")):
                module = name.partition(".")[0]
                if module not in sys.stdlib_module_names and module not in ("fst", "pipelines"):
                    found[SHARED.get(module) or PART_OF.get(module, owners.get(module, module))] = file.name
    return found


def test_x1_every_import_is_declared() -> None:
    known = set().union(*(packages for extra, packages in declared().items() if extra != "dev"))
    assert {package: file for package, file in used("fst", "pipelines").items() if package not in known} == {}


def test_x2_the_core_declares_what_fst_imports() -> None:
    core, extras = declared()[""], {package for extra in EXTRAS.values() for package in extra.packages.values()}
    assert core - used("fst").keys() == BEHIND_OTHERS
    assert core & extras == set()
    assert {"dvc", "prefect", "reasoning-gym", "great-expectations", "starlette"} <= extras


def test_x3_both_tables_have_the_same_extras() -> None:
    extras = {extra: packages for extra, packages in declared().items() if extra}
    assert extras.keys() == EXTRAS.keys()
    assert {name: set(extra.packages.values()) - extras[name] for name, extra in EXTRAS.items()} == {
        name: set() for name in EXTRAS
    }


def test_x5_make_install_has_what_the_tests_need() -> None:
    line = re.search(r"^EXTRAS := \.\[(.+)\]$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None, "the Makefile names no extras"
    assert set(line[1].split(",")) == EXTRAS.keys() - APART


@pytest.mark.parametrize(("name", "module"), [(name, module) for name in EXTRAS for module in EXTRAS[name].packages])
def test_x4_what_is_missing_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in EXTRAS[name].packages:
        monkeypatch.setitem(sys.modules, other, sys)  # there, as far as anyone can see
    monkeypatch.setitem(sys.modules, module, None)  # as Python does for what is not installed
    package = EXTRAS[name].packages[module]
    with pytest.raises(
        MissingDependency, match=rf"needs the package {package}: pip install 'fast-slow-training\[{name}\]'$"
    ):
        require(name)


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        ("serve", "uvicorn", "serving"),
        ("monitor --once", "evidently", "monitoring"),
        ("ingest --from-log letters", "evidently", "monitoring"),
        ("bench gateway", "starlette", "serving"),
        ("bench drift", "sklearn", "monitoring"),
        ("bench poison", "sklearn", "monitoring"),
    ],
)
def test_x4_a_command_says_what_it_needs(
    words: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(words.split()) == 2
    assert capsys.readouterr().err.endswith(f"pip install 'fast-slow-training[{extra}]'\n")


def test_x4_the_flows_say_what_they_need(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "prefect", None)
    assert flows(["flow", "prepare", "first"]) == 2
    assert (
        capsys.readouterr().err
        == "fst: the pipeline needs the package prefect: pip install 'fast-slow-training[pipelines]'\n"
    )
