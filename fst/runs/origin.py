"""What something was made of: the commit, the versions of libraries, and hashes of the base model and the problems."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from fst.checkout import CHECKOUT, LAB_BASE
from fst.data.code import code_of
from fst.data.types import EXACT, Domain, Problem

VERSIONED = ("torch", "transformers", "trl", "peft", "gepa")


def commit() -> str:
    """The project's git commit, with `+changes` when the working tree differs from it; `unknown` outside a git
    checkout. params.yaml and dvc.lock may differ: what they say is recorded separately."""
    if CHECKOUT is None:
        return "unknown"
    try:
        head = subprocess.run(
            ["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", CHECKOUT, "status", "--porcelain", "-uno", "--", ".", ":!dvc.lock", ":!params.yaml"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if dirty.strip() else "")


def versions() -> dict[str, str]:
    """Installed versions of the libraries that decide what a training does, by package."""
    return {package: importlib.metadata.version(package) for package in VERSIONED}


def base_sha256(base: str) -> str:
    """SHA-256 of a local base model's weight files, or of its GGUF file; of its name for a hub id."""
    place = LAB_BASE if base == "lab" else Path(base)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place] if place.is_file() else []
    digest = hashlib.sha256(b"" if files else base.encode())
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def data_sha256(domain: Domain) -> str:
    """`problems_sha256` of all splits; for a domain whose verifier is code (fst/data/code.py), of that too."""
    found, code = problems_sha256(domain.problems), code_of(domain.named or EXACT)
    return hashlib.sha256(json.dumps([found, code]).encode()).hexdigest() if code else found


def problems_sha256(problems: Iterable[Problem]) -> str:
    """SHA-256 of the ids, questions and answers of problems, with the verifier of one that is not plain equality and
    the feedback of one that has any."""
    digest = hashlib.sha256()
    for p in problems:
        values: list[object] = [p.id, p.question, p.answer]
        if p.feedback or (p.verifier or EXACT) != EXACT:
            values += [dict(p.verifier or EXACT), p.feedback]
        digest.update(json.dumps(values, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
