"""The command line `fst`: its commands by subject."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

from cyclopts import App, Group

from fst.cli import lab, release, runs, serve, sharing, traffic
from fst.cli.bench import bench
from fst.cli.bundles import bundles
from fst.cli.distill import distill
from fst.cli.models import model
from fst.cli.stage import stage
from fst.commandline import application, execute
from fst.data.domains import describe_families
from fst.lifeline import hold
from fst.spans import start

SUBJECTS: dict[str, tuple[App | Callable[..., None], ...]] = {
    "Runs": (runs.train, runs.run, distill, runs.evaluate, runs.report, sharing.export, traffic.validate),
    "Pipeline and releases": (
        *(stage, release.release, release.rollback, bundles, release.explain, release.reproduce),
        sharing.push,
    ),
    "Serving and live traffic": (serve.serve, serve.keys, traffic.simulate, traffic.ingest, traffic.monitor),
    "This machine": (lab.doctor, model, bench, lab.lab_base),
}

app = application("fst", "Fast-Slow Training: prompts and weights learn from one reward.")
for order, (subject, commands) in enumerate(SUBJECTS.items()):
    group = Group(subject, sort_key=order)
    for command in commands:
        if isinstance(command, App):
            command.group = (group,)
            app.command(command)
        else:
            app.command(command, group=group)
app.register_install_completion_command(help="Install tab completion, with a line in the shell's startup file.")
options = Group("Options", sort_key=len(SUBJECTS))
for flag in ("--help", "--version", "--install-completion"):
    app[flag].group = (options,)
app["train"].help_epilogue = "\n".join(
    ("Domains:", *(f"  {example}\n      {says}" for example, says in describe_families()))
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `fst`. Returns the exit code (fst/commandline.py); SIGTERM ends the command in order."""
    if threading.current_thread() is threading.main_thread():
        hold()
    words = sys.argv[1:] if arguments is None else arguments
    start(f"fst-{words[0]}" if words and words[0] in app else "fst")
    return execute(app, arguments)
