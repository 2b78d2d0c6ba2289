"""Runs that learn nothing, on the shipped model, from the command line. N1 a verifier that raises, N2 a reflector whose
prompts are too long, N3 answers that are all cut off: each is said at once with samples, stands in the record and in
the report, and ends with exit code 8; N4 an ordinary run has none of it; N5 a resumed run ends as it ended."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fst.cli import main
from fst.lines import read_lines
from fst.report.build import build_report

pytestmark = pytest.mark.slow

SMALL = (
    *("prepare.train=16", "prepare.validation=4", "prepare.test=4", "evaluate.samples=1", "evaluate.kl_problems=2"),
    *("slow.problems_per_step=4", "slow.group_size=4", "fast.prompts=2", "fast.anchors=8", "fast.minibatch=4"),
    *("fast.budget=48", "loop.cycles=1", "loop.steps_per_cycle=1", "reflector.proposals=8", "model.threads=1"),
)
LONG = "first " * 80


@pytest.fixture
def broken_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Problems whose verifier, a function of an installed package, raises."""
    package = tmp_path / "package"
    info = package / "toychecks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toychecks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fst.verifiers]\nraises = toybroken:raises\n")
    (package / "toybroken.py").write_text(
        "def raises(question, answer, response, meta): raise KeyError('slot')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(package))
    data = tmp_path / "mine.jsonl"
    rows = [
        {"id": f"p{i}", "question": f"digits: {i} 3 1", "answer": "1", "verifier": "python:raises"} for i in range(24)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


class _Talkative(BaseHTTPRequestHandler):
    """An OpenAI-compatible server whose every reply is a prompt of 80 words."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": f"```\n{LONG}\n```"}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "toy",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 80, "total_tokens": 89},
        }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def talkative() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Talkative) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def train(folder: Path, *more: str, settings: tuple[str, ...] = ()) -> int:
    options = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    return main(["train", "--runs", str(folder), "--run", "one", *options, *more])


def found(folder: Path) -> dict[str, dict[str, Any]]:
    """The first trouble of each kind."""
    events = [event for event in read_lines(folder / "one" / "events.jsonl") if event["kind"] == "trouble"]
    return {event["trouble"]: event for event in reversed(events)}


def page(folder: Path) -> str:
    return build_report([folder / "one"], folder / "report", "A report").read_text(encoding="utf-8")


def test_n1_a_verifier_that_raises(
    broken_verifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tmp_path, "--data", str(broken_verifier)) == 8
    out, errors = capsys.readouterr()
    assert "beware: the verifier raised on 4 of 4 answers, the last time KeyError: 'slot'" in errors, "before training"
    assert "scored    0: the verifier failed: KeyError: 'slot'" in errors
    assert "the verifier raised on" in caplog.text
    assert "0.0% -> 0.0% (± 0.0, mean@1 on 4 test problems)" in out
    assert errors.splitlines()[-1].startswith("fst: nothing was learned: the verifier raised on ")
    assert set(found(tmp_path)) == {"verifier"}
    assert "KeyError: &#39;slot&#39;" in page(tmp_path)


def test_n2_a_reflector_whose_prompts_are_too_long(
    talkative: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = (f"reflector.base_url={talkative}", "reflector.kind=endpoint", "reflector.endpoint_model=toy")
    assert train(tmp_path, "--arm", "gepa", settings=endpoint) == 8
    out, errors = capsys.readouterr()
    trouble = found(tmp_path)["refused"]
    assert "too long): raise fast.max_prompt_tokens" in trouble["says"]
    assert trouble["samples"][0].startswith("    too_long, ")
    assert LONG[:60] in out
    assert trouble["says"] in errors.splitlines()[-1]
    assert "raise fast.max_prompt_tokens" in page(tmp_path)


def test_n3_answers_that_are_cut_off_and_n5_a_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "--arm", "rl", settings=("model.max_new_tokens=1",)) == 8
    out, errors = capsys.readouterr()
    assert "beware: 4 of 4 answers were cut off at 1 tokens: raise model.max_new_tokens" in errors
    assert set(found(tmp_path)) == {"cut off"}
    assert "(cut off)" in found(tmp_path)["cut off"]["samples"][0]
    assert "answers were cut off at 1 tokens" in errors.splitlines()[-1]
    assert train(tmp_path, "--arm", "rl", "--resume", settings=("model.max_new_tokens=1",)) == 8
    assert capsys.readouterr().out == out


def test_n4_an_ordinary_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    larger = ("fast.anchors=16", "fast.budget=120", "reflector.proposals=32", "prepare.train=64")
    assert train(tmp_path, settings=larger) == 0
    out, errors = capsys.readouterr()
    assert found(tmp_path) == {}
    assert "before training, mean@1 on 4 problems under 'solve the task'" in errors
    assert errors.count("    asked ") == 3
    assert "next: `fst report" in out
    assert "from learning<" not in page(tmp_path)
