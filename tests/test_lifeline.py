"""What a command started ends with it, also when it is killed. L1 workers of multiprocessing, spawned or forked from a
server, in the middle of their work; L2 a command in a session of its own, with what that started; L3 such a command
that ends by itself has its own exit code, and leaves nobody behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.lab_project import ROOT, alive, descendants, environment, wait_until

POOL = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from fst.lifeline import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = ProcessPoolExecutor(2, context, initializer=end_with_parent, max_tasks_per_child=1)
    for _ in range(2):
        pool.submit(time.sleep, 600)
    time.sleep(600)
"""
WATCHING = """
import subprocess, time
from fst.lifeline import WATCHED

command = (*WATCHED, "/bin/sh", "-c", "sleep 600 & wait")
process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""
ENDING = """
import subprocess, sys
from fst.lifeline import WATCHED

with subprocess.Popen((*WATCHED, "/bin/sh", "-c", "exit 7"), stdin=subprocess.PIPE, start_new_session=True) as process:
    process.wait()
sys.exit(process.returncode)
"""


def killed(tmp_path: Path, program: str, count: int, *arguments: str) -> None:
    """Kill a program once it has so many descendants; all of them must end."""
    script = tmp_path / "program.py"
    script.write_text(program)
    process = subprocess.Popen([sys.executable, script, *arguments], env=environment(PYTHONPATH=str(ROOT)))
    try:
        wait_until(lambda: len(descendants(process.pid)) >= count or process.poll() is not None, 120, "not started")
        family = descendants(process.pid)
    finally:
        process.kill()
        process.wait()
    assert len(family) >= count
    wait_until(lambda: not any(map(alive, family)), 30, "a process of the killed one lives on")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_l1_workers(tmp_path: Path, start: str) -> None:
    """And a process that keeps track of semaphores; with `forkserver` also the one that workers are forks of."""
    killed(tmp_path, POOL, 3 + (start == "forkserver"), start)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_l2_a_command_and_what_it_started(tmp_path: Path) -> None:
    killed(tmp_path, WATCHING, 4)


def test_l3_a_command_that_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING], env=environment(PYTHONPATH=str(ROOT)), capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (7, b"")
