"""What DVC knows: which stages are current, and what a flow produced, which is recorded here.

DVC's command line takes two seconds per call and a flow asks dozens of times. `dvc.repo.Repo` is the class behind the
commands `dvc status` and `dvc commit -f`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fst.errors import ConfigError, FstError


class GraphBusy(FstError):
    """Another DVC command holds the project's lock. Worth a retry."""

    exit_code = 3


@dataclass(frozen=True)
class Graph:
    """The stages of a project's dvc.yaml."""

    root: Path

    def is_current(self, stage: str) -> bool:
        """Whether `dvc repro` would leave the stage alone."""
        with self._repo() as repo:
            return not repo.status(targets=[stage])

    def record(self, stage: str) -> dict[str, str]:
        """Record the stage's dependencies and outputs as they are, in dvc.lock and the cache (`dvc commit -f`). Returns
        the MD5 of every output by its path."""
        with self._repo() as repo:
            repo.commit(stage, force=True)
        return self.outputs(stage)

    def outputs(self, stage: str) -> dict[str, str]:
        """The MD5 of every output of a stage by its path, as dvc.lock has it."""
        lock = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))
        return {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}

    def add(self, path: Path) -> None:
        """Version a file that no stage makes (`dvc add`): PATH.dvc names its content in the cache."""
        with self._repo() as repo:
            repo.add(str(path))

    @contextmanager
    def _repo(self) -> Iterator[Any]:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError
        from dvc.repo import Repo
        from dvc.rwlock import RWLockFileCorruptedError

        logging.getLogger("dvc").setLevel(logging.ERROR)
        try:
            with Repo(str(self.root)) as repo:
                yield repo
        except (LockError, RWLockFileCorruptedError) as exc:
            raise GraphBusy(f"DVC is at work in {self.root.resolve()} ({exc}); tried again later") from exc
        except DvcException as exc:
            raise ConfigError(f"DVC: {exc}; `dvc status` in {self.root.resolve()} says more") from exc
