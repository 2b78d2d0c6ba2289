"""The run folder: W1 writes are atomic; W2 a torn line is closed off and skipped; W3 a resume voids exactly the
lines of its round and later; W4 one process holds a run; W5 a run is only resumed as what it was; W6 a checkpoint
is there whole or not at all, and the last two are kept; W7 a rollout is recorded slim, and old records are read; W8
going on reads no more of a long run than of a short one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst.config import Params, params_from_dict
from fst.errors import RecordError
from fst.files import write_atomic
from fst.lines import read_lines
from fst.runs.records import RunFolder, events_back, rollouts_of, valid_lines
from fst.types import Rollout

ROOT = Path(__file__).resolve().parents[2]
IO_FIGURES = Path("/proc/self/io")
CONFIG: dict[str, Any] = {
    "arm": "fst",
    "domain": "lab/reverse",
    "seed": 0,
    "params": Params().of_run(),
    "base_sha256": "b" * 64,
    "data_sha256": "d" * 64,
    "commit": "one",
}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    yield folder
    folder.close()


def rollout(problem: str, text: str, length: int, feedback: str) -> Rollout:
    tokens, logprobs = tuple(range(length)), tuple(-1.123456 + i * 1e-6 for i in range(length))
    return Rollout("train", problem, "q", 1, text, tokens, logprobs, 0.5, feedback)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_w1_a_write_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for text in ("a long first text", "short ✓"):
        write_atomic(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["state.json"]


def test_w1_a_write_that_fails_leaves_the_old_text_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new" * 10_000 + "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["state.json"]


def test_a_run_of_an_older_release_goes_on_under_the_names_that_keys_have_now(run: RunFolder) -> None:
    run.close()
    file = run.path / "config.json"
    file.write_text(file.read_text().replace('"kl_problems"', '"drift_problems"'))
    RunFolder.resume(run.path, CONFIG).close()
    file.write_text(file.read_text().replace('"drift_problems": 100', '"drift_problems": 99'))
    with pytest.raises(RecordError, match="made with another 'params'"):
        RunFolder.resume(run.path, CONFIG)


def test_a_run_that_is_older_than_a_parameter_has_its_default(run: RunFolder) -> None:
    run.close()
    file = run.path / "config.json"
    config = json.loads(file.read_text())
    del config["params"]["evaluate"]["every"]
    file.write_text(json.dumps(config))
    RunFolder.resume(run.path, CONFIG).close()
    sparse = params_from_dict({"evaluate": {"every": 4}}).of_run()
    with pytest.raises(RecordError, match="made with another 'params'"):
        RunFolder.resume(run.path, {**CONFIG, "params": sparse})


def test_a_run_with_a_parameter_that_is_gone_is_another_run(run: RunFolder) -> None:
    run.close()
    file = run.path / "config.json"
    file.write_text(file.read_text().replace('"kl_problems"', '"no_such_key"'))
    with pytest.raises(RecordError, match="made with another 'params'"):
        RunFolder.resume(run.path, CONFIG)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_w2_a_torn_line_is_closed_off_and_skipped(run: RunFolder, cut: int) -> None:
    for step in (1, 2):
        run.event("step", round=0, step=step, note="é✓")
    run.close()
    path = run.path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    torn = path.read_bytes()
    with_resume = RunFolder.resume(run.path, CONFIG)
    with_resume.event("step", round=0, step=3)
    with_resume.event("step", round=0, step=4)
    with_resume.close()
    whole = [1, 2] if cut == 1 else [1]  # the newline alone was lost: the line itself is whole
    assert [line["step"] for line in read_lines(path)] == [*whole, 3, 4]
    assert path.read_bytes().startswith(torn + b"\n"), "what was there stays, closed off"


def test_w2_a_character_torn_in_two_is_skipped_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert list(read_lines(path)) == []
    path.write_bytes('{"kind": "a"}\n{"text": "é'.encode()[:-1] + b"\n" + b'{"kind": "b"}\n')
    assert [line["kind"] for line in read_lines(path)] == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from(["step", "step", "resume"]), st.integers(-1, 4)), max_size=30))
def test_w3_a_resume_voids_the_earlier_lines_of_its_round_and_later(script: list[tuple[str, int]]) -> None:
    lines = [{"kind": kind, "round": number, "at": at} for at, (kind, number) in enumerate(script)]
    in_force = [
        line
        for line in lines
        if not any(later["kind"] == "resume" and later["round"] <= line["round"] for later in lines[line["at"] + 1 :])
    ]
    assert valid_lines(lines) == in_force


def test_w3_both_accounts_are_voided_from_the_same_round(run: RunFolder) -> None:
    for number in (0, 1, 2):
        run.event("step", round=number)
        run.rollouts(number, [rollout(f"p{number}", "é\n", 2, "input: 1\noutput: é\n\nexpected: 2\ndiffers: all")])
    run.void_from(1)
    assert [e["round"] for e in valid_lines(read_lines(run.path / "events.jsonl"))] == [0, 1]
    first, mark = valid_lines(read_lines(run.path / "rollouts.jsonl"))
    assert mark == {"kind": "resume", "round": 1}
    assert first == {
        "round": 0,
        "channel": "train",
        "problem_id": "p0",
        "prompt_id": "q",
        "weights": 1,
        "text": "é\n",
        "tokens": 2,
        "logprob": -2.24691,
        "reward": 0.5,
        "feedback": "all",
    }
    assert len(list(read_lines(run.path / "rollouts.jsonl"))) == 4, "void lines are still there to read"


@given(st.lists(st.tuples(st.sampled_from(["step", "step", "resume"]), st.integers(-1, 4)), max_size=30))
def test_w3_events_read_back_are_those_in_force(script: list[tuple[str, int]]) -> None:
    lines = [{"kind": kind, "round": number, "at": at} for at, (kind, number) in enumerate(script)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (Path(folder) / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert list(events_back(Path(folder))) == valid_lines(lines)[::-1]
        kept = [(line["at"] + 1, line) for line in valid_lines(lines) if line["kind"] != "resume"]
        assert list(rollouts_of(Path(folder))) == kept


def test_w7_a_rollout_is_its_text_and_little_more(run: RunFolder) -> None:
    """The answer is on the line once, and its tokens only counted: 256 of them took more than 7,000 bytes before."""
    text = "so we add the digits " * 50
    feedback = f"input: {'a long question ' * 20}\noutput: {text}\nexpected: 3\ndiffers: position 1"
    run.rollouts(0, [rollout("p0", text, 256, feedback), rollout("p1", text, 256, "of a verifier's own form")])
    first, second = (run.path / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(first) < len(text) + 200
    assert [json.loads(line)["feedback"] for line in (first, second)] == ["position 1", "of a verifier's own form"]


def test_w7_lines_of_older_runs_are_read_as_they_are_written_now(run: RunFolder) -> None:
    old = {"round": 0, "channel": "eval", "tokens": [5, 2], "logprobs": [-0.5, -1.25], "reward": 1.0, "feedback": "f"}
    (run.path / "rollouts.jsonl").write_text(json.dumps(old) + "\n")
    kept = {"round": 0, "channel": "eval", "reward": 1.0, "feedback": "f"}
    assert list(rollouts_of(run.path)) == [(1, {**kept, "tokens": 2, "logprob": -1.75})]


@pytest.mark.skipif(not IO_FIGURES.exists(), reason="the bytes that a process reads are counted on Linux only")
def test_w8_going_on_reads_the_ends_of_the_files_alone(run: RunFolder) -> None:
    """Files of 64 MB each, the round's events at their end and a torn line after them."""
    run.close()
    for name in ("events.jsonl", "rollouts.jsonl"):
        with (run.path / name).open("wb") as file:
            line = json.dumps({"kind": "step", "round": 0, "note": "x" * 1_000}).encode() + b"\n"
            file.write(line * (64_000_000 // len(line)))
            file.write(json.dumps({"kind": "round", "round": 1, "reward": 0.5}).encode() + b'\n{"kind": "st')
    before = bytes_read()
    resumed = RunFolder.resume(run.path, CONFIG)
    assert next(events_back(run.path)) == {"kind": "round", "round": 1, "reward": 0.5}
    resumed.void_from(2)
    resumed.event("step", round=2)
    back = events_back(run.path)
    assert [next(back)["kind"] for _ in range(4)] == ["step", "resume", "round", "step"]
    resumed.close()
    assert bytes_read() - before < 1_000_000
    assert (run.path / "events.jsonl").stat().st_size > 63_000_000, "nothing was cut off"


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    return int(IO_FIGURES.read_text().split("rchar: ")[1].split()[0])


def test_w4_a_run_in_use_is_refused_and_free_once_it_is_closed(run: RunFolder) -> None:
    with pytest.raises(RecordError, match="is in use by another process"):
        RunFolder.resume(run.path, CONFIG)
    run.close()
    RunFolder.resume(run.path, CONFIG).close()


def test_w4_a_second_run_in_one_folder_is_refused_and_changes_nothing(run: RunFolder) -> None:
    run.event("step", round=0)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RecordError, match="holds a run already; go on with it by --resume"):
        RunFolder.create(run.path, CONFIG)
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_w4_a_run_is_free_again_when_its_process_dies(tmp_path: Path) -> None:
    """Without a word: no handler runs, and the lock file stays."""
    script = (
        "import json, sys\nfrom pathlib import Path\nfrom fst.runs.records import RunFolder\n"
        "run = RunFolder.create(Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path), json.dumps(CONFIG)]
    held = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with held:
        assert held.stdout
        assert held.stdout.readline() == "held\n"
        with pytest.raises(RecordError, match=f"{tmp_path} is in use by another process; wait for it, or name another"):
            RunFolder.resume(tmp_path, CONFIG)
        held.kill()
    assert (tmp_path / ".lock").exists()
    RunFolder.resume(tmp_path, CONFIG).close()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arm", "rl"),
        ("domain", "lab/sort"),
        ("seed", 1),
        ("params", params_from_dict({"loop": {"cycles": 11}}).of_run()),
        ("base_sha256", "c" * 64),
        ("data_sha256", "e" * 64),
    ],
)
def test_w5_another_configuration_is_refused_by_the_name_of_what_differs(run: RunFolder, key: str, value: Any) -> None:
    run.close()
    with pytest.raises(RecordError, match=f"was made with another '{key}'"):
        RunFolder.resume(run.path, {**CONFIG, key: value})


def test_w5_another_commit_may_go_on(run: RunFolder) -> None:
    run.close()
    RunFolder.resume(run.path, {**CONFIG, "commit": "two"}).close()


@pytest.mark.parametrize("content", [None, "", '{"arm": "f'])
def test_w5_a_folder_without_a_readable_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(RecordError, match="holds no run that could be resumed; start it without --resume"):
        RunFolder.resume(tmp_path, CONFIG)


def fill(run: RunFolder, number: int, text: str) -> None:
    with run.checkpoint(number) as folder:
        (folder / "state.json").write_text(text, encoding="utf-8")
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_bytes(text.encode())


def test_w6_the_last_two_checkpoints_are_kept_past_nine(run: RunFolder) -> None:
    assert run.last_checkpoint() is None
    for number in (8, 9, 10):
        fill(run, number, str(number))
        assert run.last_checkpoint() == (number, run.path / "checkpoints" / f"round-{number:04d}")
    assert names(run.path / "checkpoints") == ["round-0009", "round-0010"]
    assert (run.path / "checkpoints/round-0010/deep/weights").read_bytes() == b"10"


def test_w6_a_failure_inside_leaves_the_former_checkpoint_alone(run: RunFolder) -> None:
    fill(run, 0, "zero")

    def fail() -> None:
        with run.checkpoint(1) as folder:
            (folder / "state.json").write_text("half", encoding="utf-8")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert run.last_checkpoint() == (0, run.path / "checkpoints/round-0000")
    assert not (run.path / "checkpoints/round-0001").exists()
    assert (run.path / "checkpoints/round-0000/state.json").read_text(encoding="utf-8") == "zero"
    fill(run, 1, "one")  # what the failure left behind is not mixed in
    assert names(run.path / "checkpoints/round-0001") == ["deep", "state.json"]
    assert names(run.path / "checkpoints") == ["round-0000", "round-0001"]


def test_w6_the_account_is_complete_wherever_its_checkpoint_is(run: RunFolder) -> None:
    run.event("step", round=0)
    fill(run, 0, "zero")
    assert json.loads((run.path / "events.jsonl").read_text(encoding="utf-8")) == {"kind": "step", "round": 0}
    shutil.rmtree(run.path / "checkpoints")
    assert run.last_checkpoint() is None
