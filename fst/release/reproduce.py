"""Makes a bundle again: checks out its commit in a separate folder, with its parameters, and has DVC run every stage
that leads to it with that commit's code. Bundles that it builds on and that were released are made first, in the same
folder, with their own commit and parameters. The project that this runs in, including its DVC cache, is not changed."""

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

_DVC = (sys.executable, "-P", "-m", "dvc")  # -P: no file in the clone can shadow a library
_GRACE_SECONDS = 10.0  # for an interrupted training to finish writing
_POLL_SECONDS = 0.1


class NotReproduced(FstError):
    """Raised when a stage failed on the way, so that there is nothing to compare."""

    exit_code = 3


@dataclass(frozen=True)
class Workshop:
    """A clone of the project at a commit, in `folder`. The `fst` on its PATH runs the clone's code instead of the
    installed one."""

    folder: Path
    inner: Path  # path of the project inside its git repository

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
        """The text of the script `fst`."""
        modules = f'{shlex.quote(str(self.project))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        return f'#!/bin/sh\nPYTHONPATH={modules} exec {shlex.quote(sys.executable)} -m fst.cli "$@"\n'


def head(project: Path) -> str:
    """Return the commit that a project is at, with `+changes` if its working tree differs; `unknown` outside of git.
    Differences in dvc.lock and params.yaml do not count: the former is made anew, the latter taken from elsewhere."""
    try:
        changed = _git(project, "status", "--porcelain", "-uno", "--", ".", ":!dvc.lock", ":!params.yaml")
        return _git(project, "rev-parse", "HEAD").strip() + (CHANGED if changed.strip() else "")
    except ConfigError:
        return "unknown"


def reproduce(steps: Sequence[Step], project: Path, keep: Path | None, say: Callable[[str], None]) -> Bundle:
    """Take the steps to a bundle and return the bundle of the last one. DVC's output goes to our own. `keep` is a new
    folder to work in, which is kept; without it, a temporary one is used. `say` is called with each step.

    Raises ConfigError if the commit or the data is not available here, NotReproduced if a stage fails.
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
    """List the packages that are installed in another version than a bundle was made with; they may give different
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
    """The top folder of the project's git repository."""
    return Path(_git(project, "rev-parse", "--show-toplevel").strip())


def _clone(project: Path, shop: Workshop) -> None:
    """Clone the repository without checking out files, and write the script `fst`."""
    _git(project, "clone", "--quiet", "--shared", "--no-checkout", str(_top(project)), str(shop.clone))
    launcher = shop.folder / "bin" / "fst"
    launcher.parent.mkdir()
    launcher.write_text(shop.launcher, encoding="utf-8")
    launcher.chmod(0o755)


def _check_out(recipe: Recipe, project: Path, shop: Workshop) -> None:
    """Check out the commit's files over those of the previous step, whose outputs stay, and write params.yaml. Raises
    ConfigError if the repository does not have the commit."""
    try:
        _git(project, "cat-file", "-e", f"{recipe.commit}^{{commit}}")
    except ConfigError as exc:
        missing = f"commit {recipe.commit} is not in {_top(project)}; `git fetch` the branch or tag that has it"
        raise ConfigError(missing) from exc
    _git(shop.clone, "checkout", "--quiet", "--force", "--detach", recipe.commit)
    (shop.project / "params.yaml").write_text(recipe.params_yaml, encoding="utf-8")


def _leave_the_rest(step: Step, shop: Workshop) -> None:
    """Remove the domains of other steps from dvc.yaml; their outputs exist, and DVC uses them as they are."""
    if not step.names:
        return
    file, domains = shop.project / "dvc.yaml", step.recipe.params["domains"]
    graph = yaml.safe_load(file.read_text(encoding="utf-8"))
    for stage in graph["stages"].values():
        if stage.get("foreach") == "${domains}":
            stage["foreach"] = {name: dict(domains[name]) for name in step.names}
    file.write_text(yaml.safe_dump(graph, sort_keys=False), encoding="utf-8")


def _bring_problems(recipe: Recipe, project: Path, shop: Workshop) -> None:
    """Copy problem files that the commit does not have, such as those made from traffic, or their .dvc files, from the
    project. If their content has changed, the resulting bundle will differ."""
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
    """Check out the datasets that DVC tracks from the project's cache. If one that is needed is missing there, `dvc
    repro` stops and names it."""
    tracked = list(filter(None, _git(shop.project, "ls-files", "-z", "--", "*.dvc").split("\0")))
    if not tracked:
        return
    asked = subprocess.run([*_DVC, "cache", "dir"], cwd=project, capture_output=True, text=True)
    if asked.returncode:
        raise ConfigError(f"DVC does not say where the cache of {project.resolve()} is: {asked.stderr.strip()}")
    _run((*_DVC, "cache", "dir", "--quiet", "--local", asked.stdout.strip()), shop)
    _run((*_DVC, "checkout", "--quiet", "--allow-missing", *tracked), shop)


def _run(command: tuple[str, ...], shop: Workshop) -> None:
    """Run a command in the clone, in its own process group, all of which ends if this process is stopped or killed.
    Raises NotReproduced if the command fails."""
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
    """End a process group: with SIGTERM first, after a grace period with SIGKILL."""
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
    """Send a signal to a process group; returns whether the group still exists."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # the latter: a group of zombies, on some systems
        return False
    return True


def _git(folder: Path, *arguments: str) -> str:
    """Run git and return its output. Raises ConfigError with git's own message if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError as exc:
        raise ConfigError(f"git cannot be started ({exc.strerror}); install it") from exc
    if done.returncode:
        raise ConfigError(f"git {arguments[0]} in {folder.resolve()}: {done.stderr.strip()}")
    return done.stdout
