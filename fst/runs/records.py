"""The run folder: an append-only, crash-safe record of everything that a run did.

    config.json            arm, domain, seed, parameters, content hashes, commit and versions
    events.jsonl           rounds, steps, prompts, evaluations; one JSON object per line
    rollouts.jsonl         every rollout: its answer as text, its reward, and what the two cost; its purpose ("train",
                           "fast" or "eval") is under the key "channel"
    checkpoints/round-NNNN everything that is needed to go on after that round

Lines are flushed as they are written and synced at the end of every round. A line torn by a crash is closed off and
skipped. A resumed run writes a `resume` event: earlier lines of that round or later are void, but still there to read.
Resuming reads the files from their ends, so that it takes no longer after a long run than after a short one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from fst.config import params_from_record
from fst.data.scoring import remark
from fst.errors import ConfigError, RecordError
from fst.files import sync_folder, write_atomic
from fst.lines import ends_in_a_line, read_back, read_lines, read_numbered_lines
from fst.types import Rollout

KEEP_CHECKPOINTS = 2
ASKED = ("arm", "domain", "seed", "params")  # the keys of config.json that are known before anything is loaded


def _open_for_append(path: Path) -> IO[str]:
    """Open a file of JSON lines; if a crash left half a line at its end, close that line off first."""
    whole = ends_in_a_line(path)
    file = path.open("a", encoding="utf-8")
    if not whole:
        file.write("\n")
    return file


def check_same(path: Path, config: Mapping[str, Any]) -> None:
    """Compare a run's config.json with these values, key by key. A parameter that is newer than the run has its default
    there. Raises RecordError where one differs."""
    try:
        before = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as exc:
        raise RecordError(f"{path} holds no run that could be resumed; start it without --resume") from exc
    with contextlib.suppress(ConfigError):  # keys that this version does not have: compared as they are
        before["params"] = json.loads(json.dumps(params_from_record(before.get("params", {})).of_run()))
    for key, value in config.items():
        if before.get(key) != json.loads(json.dumps(value)):
            raise RecordError(
                f"{path} was made with another {key!r}; go on with the same, or choose another folder (--run, --runs)"
            )


@dataclass
class RunFolder:
    """A run's folder. `create` begins a run, `resume` takes up one that was cut off; both lock it until `close`."""

    path: Path
    _files: dict[str, IO[str]] = field(default_factory=dict)
    _lock: FileLock = field(init=False)

    def __post_init__(self) -> None:
        self._lock = FileLock(self.path / ".lock", blocking=False, thread_local=False, fallback_to_soft=False)

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Begin a run. Raises RecordError if the folder holds one already or is in use."""
        if (path / "config.json").exists():
            raise RecordError(f"{path} holds a run already; go on with it by --resume, or name another with --run")
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run.lock()
        write_atomic(path / "config.json", json.dumps(config, indent=2) + "\n")
        return run

    @classmethod
    def resume(cls, path: Path, config: Mapping[str, Any]) -> RunFolder:
        """Take up a run made with the same parameters. Raises RecordError when they differ or the run is in use."""
        check_same(path, {key: config.get(key) for key in (*ASKED, "base_sha256", "data_sha256", "start")})
        run = cls(path)
        run.lock()
        return run

    def lock(self) -> None:
        """Lock the run until it is closed or the process dies. Raises RecordError when the run is in use."""
        try:
            self._lock.acquire()
        except Timeout as exc:
            raise RecordError(
                f"{self.path} is in use by another process; wait for it, or name another with --run"
            ) from exc

    def _append(self, name: str, objects: Iterable[Mapping[str, Any]]) -> None:
        if name not in self._files:
            self._files[name] = _open_for_append(self.path / name)
        file = self._files[name]
        file.write("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects))
        file.flush()

    def event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        self._append("events.jsonl", [{"kind": kind, **values}])

    def rollouts(self, round_number: int, rollouts: Iterable[Rollout]) -> None:
        """Append a line per rollout to rollouts.jsonl."""
        self._append("rollouts.jsonl", ({"round": round_number, **_rollout_line(r)} for r in rollouts))

    def void_from(self, round_number: int) -> None:
        """Declare all lines of that round and later void, in both files."""
        for name in ("events.jsonl", "rollouts.jsonl"):
            self._append(name, [{"kind": "resume", "round": round_number}])

    def sync(self) -> None:
        """Flush both files to the disk (fsync)."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def checkpoint(self, round_number: int) -> Iterator[Path]:
        """A folder to fill; it becomes `checkpoints/round-NNNN` in one rename, after both files are synced."""
        parent = self.path / "checkpoints"
        partial = parent / f".round-{round_number:04d}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        self.sync()
        sync_folder(partial)
        final = parent / f"round-{round_number:04d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        sync_folder(parent)
        self.drop_old()

    def drop_old(self) -> None:
        """Remove all but the last KEEP_CHECKPOINTS checkpoints: a process that was killed may have left more."""
        for old in sorted((self.path / "checkpoints").glob("round-*"))[:-KEEP_CHECKPOINTS]:
            shutil.rmtree(old)

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """(round, folder) of the last completed round; None before the first."""
        found = sorted((self.path / "checkpoints").glob("round-*"))
        return (int(found[-1].name.removeprefix("round-")), found[-1]) if found else None

    def close(self) -> None:
        """Close the files and give the lock back."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._lock.release()


def _rollout_line(rollout: Rollout) -> dict[str, Any]:
    """A rollout as it is recorded. Token ids and their log-probabilities, which a training step needs and nothing
    after it, are counted and summed; question and expected answer are those of the problem, and not repeated."""
    return {
        "channel": rollout.purpose,
        "problem_id": rollout.problem_id,
        "prompt_id": rollout.prompt_id,
        "weights": rollout.weights,
        "text": rollout.text,
        "tokens": len(rollout.tokens),
        "logprob": round(math.fsum(rollout.logprobs), 5),
        "reward": rollout.reward,
        "feedback": remark(rollout.feedback),
    }


def _slim(line: dict[str, Any]) -> dict[str, Any]:
    """A line of rollouts.jsonl as it is written now. Older ones list all tokens and log-probabilities."""
    if isinstance(line.get("tokens"), list):
        line["tokens"] = len(line["tokens"])
    if isinstance(line.get("logprobs"), list):
        line["logprob"] = sum(line.pop("logprobs"))
    return line


def valid_lines(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines in force: those that a later `resume` event voids are left out."""
    kept: list[dict[str, Any]] = []
    for line in lines:
        if line.get("kind") == "resume":
            kept = [old for old in kept if old.get("round", -1) < line["round"]]
        kept.append(dict(line))
    return kept


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The events in force of a run; none where there is no run."""
    return valid_lines(read_lines(folder / "events.jsonl"))


def events_back(folder: Path) -> Iterator[dict[str, Any]]:
    """The events in force of a run, the last one first, read from the end of the file as far as they are asked for."""
    bound = math.inf
    for event in read_back(folder / "events.jsonl"):
        if event.get("round", -1) < bound:
            yield event
        if event.get("kind") == "resume":
            bound = min(bound, event["round"])


def rollouts_of(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rollouts in force of a run, with their line numbers. The file is read twice, never held in memory."""
    path = folder / "rollouts.jsonl"
    marks = [(n, line["round"]) for n, line in read_numbered_lines(path) if line.get("kind") == "resume"]
    for number, line in read_numbered_lines(path):
        if line.get("kind") != "resume" and all(n < number or line.get("round", -1) < first for n, first in marks):
            yield number, _slim(line)
