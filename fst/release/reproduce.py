"""Making a bundle again: its commit in a folder of its own, its parameters, and DVC running every stage that leads to
it with the code of that commit. What it builds on, where it was released by itself, is made first, in the same folder,
with its own commit and parameters. The project that this is asked in stays as it is, its DVC cache included."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fst.errors import ConfigError, FstError
from fst.files import is_inner_path
from fst.lifeline import WATCHED
from fst.release.recipe import CHANGED, Recipe, Step
from fst.store.bundle import Bundle, read_bundle
from fst.types import plain_spec

_DVC = (sys.executable, "-P", "-m", "dvc")  # -P: nothing in the clone takes the place of a library
_GRACE_SECONDS = 10.0  # for a training that is stopped to write what it is writing
_POLL_SECONDS = 0.1


class NotReproduced(FstError):
    """A stage failed on the way, so there is nothing to compare."""

    exit_code = 3


@dataclass(frozen=True)
class Workshop:
    """A clone of the project at a commit, in `folder`. `fst` on its path runs the clone's code, whatever is
    installed."""

    folder: Path
    inner: Path  # of the project in its git repository

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    @property
    def project(self) -> Path:
        return self.clone / self.inner

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_ROOT", "DVC_STAGE"))}
        path = f"{self.folder / 'bin'}{os.pathsep}{inherited.get('PATH', os.defpath)}"
        return {**inherited, "PATH": path}

    @property
    def launcher(self) -> str:
        """The script `fst`."""
        modules = f'{shlex.quote(str(self.project))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        return f'#!/bin/sh\nPYTHONPATH={modules} exec {shlex.quote(sys.executable)} -m fst.cli "$@"\n'


def head(project: Path) -> str:
    """The commit that a project is at, with `+changes` when its working tree differs; `unknown` outside of git. What
    DVC recorded is no change: it is made anew; and neither are parameters, which are taken from elsewhere."""
    try:
        changed = _git(project, "status", "--porcelain", "-uno", "--", ".", ":!dvc.lock", ":!params.yaml")
        return _git(project, "rev-parse", "HEAD").strip() + (CHANGED if changed.strip() else "")
    except ConfigError:
        return "unknown"


def reproduce(steps: Sequence[Step], project: Path, keep: Path | None, say: Callable[[str], None]) -> Bundle:
    """Take the steps to a bundle and return what came out of the last. DVC's output goes where ours goes. `keep` is a
    new folder to work in and to leave behind; without it, nothing is left behind.

    Raises ConfigError when the commit or the data is not here, NotReproduced when a stage fails.
    """
    inner = Path(_git(project, "rev-parse", "--show-prefix").strip())
    with _folder(keep) as folder:
        shop = Workshop(folder.resolve(), inner)
        _clone(project, shop)
        for step in steps:
            recipe = step.recipe
            _check_out(recipe, project, shop)
            _leave_the_rest(step, shop)
            _bring_problems(recipe, project, shop)
            _bring_data(project, shop)
            say(f"commit {recipe.commit} in {shop.project}{': ' + recipe.name if len(steps) > 1 else ''}")
            _run((*_DVC, "repro", "--force", "--no-run-cache", "--no-commit", recipe.stage), shop)
        return read_bundle(shop.project / "models" / "bundles" / steps[-1].recipe.name)


def other_versions(recorded: Mapping[str, str]) -> list[str]:
    """Packages that are installed in another version than a bundle was made with; another version may give other
    bytes."""
    found = []
    for package, version in recorded.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed = importlib.metadata.version(package)
            if installed != version:
                found.append(f"{package} {installed} instead of {version}")
    return found


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="fst-reproduce-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as exc:
        raise ConfigError(f"--keep {keep}: {exc.strerror}; name a new folder in a place that you may write") from exc
    yield keep


def _top(project: Path) -> Path:
    """The folder of the project's git repository."""
    return Path(_git(project, "rev-parse", "--show-toplevel").strip())


def _clone(project: Path, shop: Workshop) -> None:
    """The repository without its files, and `fst`."""
    _git(project, "clone", "--quiet", "--shared", "--no-checkout", str(_top(project)), str(shop.clone))
    launcher = shop.folder / "bin" / "fst"
    launcher.parent.mkdir()
    launcher.write_text(shop.launcher, encoding="utf-8")
    launcher.chmod(0o755)


def _check_out(recipe: Recipe, project: Path, shop: Workshop) -> None:
    """The files of the commit, in place of those of the step before, whose outputs stay; and the parameters."""
    try:
        _git(project, "cat-file", "-e", f"{recipe.commit}^{{commit}}")
    except ConfigError as exc:
        missing = f"commit {recipe.commit} is not in {_top(project)}; `git fetch` the branch or tag that has it"
        raise ConfigError(missing) from exc
    _git(shop.clone, "checkout", "--quiet", "--force", "--detach", recipe.commit)
    (shop.project / "params.yaml").write_text(recipe.params_yaml, encoding="utf-8")


def _leave_the_rest(step: Step, shop: Workshop) -> None:
    """Take the domains of other steps out of dvc.yaml: what they made is there, and DVC takes it as it is."""
    if not step.names:
        return
    file, domains = shop.project / "dvc.yaml", step.recipe.params["domains"]
    graph = yaml.safe_load(file.read_text(encoding="utf-8"))
    for stage in graph["stages"].values():
        if stage.get("foreach") == "${domains}":
            stage["foreach"] = {name: dict(domains[name]) for name in step.names}
    file.write_text(yaml.safe_dump(graph, sort_keys=False), encoding="utf-8")


def _bring_problems(recipe: Recipe, project: Path, shop: Workshop) -> None:
    """Problem files that the commit does not have, as they are in the project, or as DVC knows them there: those that
    were made from traffic. Another content than it was made with shows in what comes out."""
    for domain in recipe.params.get("domains", {}).values():
        path = plain_spec(domain["spec"]).removeprefix("jsonl:").partition("?")[0]
        if not path.endswith(".jsonl") or not is_inner_path(path):
            continue
        for name in (path, f"{path}.dvc"):
            there, here = project / name, shop.project / name
            if there.is_file() and not (shop.project / path).exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, here)
                if name != path:
                    _git(shop.project, "add", "--force", name)  # _bring_data asks git which files DVC knows


def _bring_data(project: Path, shop: Workshop) -> None:
    """Datasets that DVC tracks, from the project's cache. One that is missing there and needed stops `dvc repro`, which
    names it."""
    tracked = list(filter(None, _git(shop.project, "ls-files", "-z", "--", "*.dvc").split("\0")))
    if not tracked:
        return
    asked = subprocess.run([*_DVC, "cache", "dir"], cwd=project, capture_output=True, text=True)
    if asked.returncode:
        raise ConfigError(f"DVC does not say where the cache of {project.resolve()} is: {asked.stderr.strip()}")
    _run((*_DVC, "cache", "dir", "--quiet", "--local", asked.stdout.strip()), shop)
    _run((*_DVC, "checkout", "--quiet", "--allow-missing", *tracked), shop)


def _run(command: tuple[str, ...], shop: Workshop) -> None:
    """Run a command in the clone, in a process group of its own: when we are stopped or killed, all of it ends."""
    process = subprocess.Popen(
        (*WATCHED, *command), cwd=shop.project, env=shop.environment, stdin=subprocess.PIPE, start_new_session=True
    )
    with process:  # closes the pipe
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
    if code:
        said = " ".join(command[len(_DVC) - 1 :])
        raise NotReproduced(
            f"`{said}` ended with {code}, see above; a dataset that is missing comes with `dvc pull`, and --keep "
            f"leaves the folder to look at"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process group: in order first, then at once."""
    try:
        _signal(process, signal.SIGTERM)
        until = time.monotonic() + _GRACE_SECONDS
        while process.poll() is None or _signal(process, 0):
            if time.monotonic() > until:
                break
            time.sleep(_POLL_SECONDS)
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether there was somebody to receive it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # the latter: a group of zombies, on some systems
        return False
    return True


def _git(folder: Path, *arguments: str) -> str:
    """What git says. Raises ConfigError with what it complains about."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError as exc:
        raise ConfigError(f"git cannot be started ({exc.strerror}); install it") from exc
    if done.returncode:
        raise ConfigError(f"git {arguments[0]} in {folder.resolve()}: {done.stderr.strip()}")
    return done.stdout
