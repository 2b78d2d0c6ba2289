"""What orchestration costs: the flow `train` against `fst stage train`, as whole processes with the same seed.

Both train the first domain of params.yaml in a clone of the project's last commit. The two adapters must be equal, byte
for byte.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from fst.errors import FstError
from fst.stages.places import Places


class BenchFailed(FstError):
    """One of the two sides failed; the message holds what it printed."""


def overhead(root: Path, cycles: int) -> list[str]:
    """Seconds of both and their ratio, as lines to print. Raises BenchFailed."""
    with tempfile.TemporaryDirectory(prefix="fst-bench-") as scratch:
        clone = Path(scratch) / "project"
        _run(root, "git", "clone", "--quiet", "--local", str(root.resolve()), str(clone))
        params = yaml.safe_load((clone / "params.yaml").read_text(encoding="utf-8"))
        params["loop"]["cycles"] = cycles
        (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        name, places = next(iter(params["domains"])), Places(clone)
        for command in (("base",), ("prepare", name), ("validate", name)):
            _run(clone, sys.executable, "-m", "fst.cli", "stage", *command)
        plain = _timed(clone, sys.executable, "-m", "fst.cli", "stage", "train", name, "--quiet")
        adapter = places.trained(name) / "adapter" / "adapter_model.safetensors"
        expected = adapter.read_bytes()
        shutil.rmtree(places.trained(name))
        shutil.rmtree(places.runs)
        flow = _timed(clone, sys.executable, "-m", "pipelines", "flow", "train", name)
        if adapter.read_bytes() != expected:
            raise BenchFailed("the flow's adapter differs from the plain CLI's: the two did not do the same work")
    return [
        f"plain CLI: {plain:.1f} s",
        f"train flow: {flow:.1f} s, same adapter",
        f"ratio: {flow / plain:.3f}",
    ]


def _timed(folder: Path, *command: str) -> float:
    started = time.monotonic()
    _run(folder, *command)
    return time.monotonic() - started


def _run(folder: Path, *command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BenchFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
