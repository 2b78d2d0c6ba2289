"""A whole run with a reflector behind a real HTTP server: what it counts, and how it ends where the server stops
answering. U1 refusals, calls, tokens and cost are on the record; U2 a round in which every call fails ends the run with
the last error, and what was complete is saved; U3 the run goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fst.config import params_from_dict
from fst.errors import ReflectorError
from fst.method.run.runner import Job, has_ended, run_job
from fst.runs.view import load_run
from support.chat_server import refused, said, serving


def test_u1_u2_u3_a_server_that_stops_answering(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    long = said("1 " * 99)
    checked, written = said("ready", (100, 10)), said("sort the digits", (100, 10))
    with serving(checked, written, long, long, refused(401, "key expired")) as server:
        endpoint = {"kind": "endpoint", "base_url": server.url, "endpoint_model": "toy", "input_price": 10.0}
        params = params_from_dict(
            {
                "prepare": {"train": 16, "validation": 2, "test": 2},
                "model": {"base": str(tiny_model_dir), "max_new_tokens": 4},
                "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "patience": 3},
                "reflector": {**endpoint, "api_key_env": "FST_TEST_KEY"},
                "loop": {"cycles": 2, "steps_per_cycle": 1},
                "evaluate": {"samples": 1, "kl_problems": 1},
            }
        )
        job = Job("gepa", "lab/reverse", 0, tmp_path / "run", params)
        with pytest.raises(ReflectorError, match=r"round 1: all 3 calls .*HTTP 401: .*key expired.*--resume") as caught:
            run_job(job, quiet=True)
        assert caught.value.exit_code == 3
        (first,) = load_run(job.folder).rounds
        asked = first["screening"]
        assert (asked["asked"], asked["errors"]) == (3, 1), "a prompt, one too long twice, a failure"
        assert (asked["refused"], asked["longest"] > 64) == ({"empty": 0, "known": 0, "too_long": 1}, True)
        used = first["reflector_usage"]
        assert (used["calls"], used["input_tokens"], used["output_tokens"]) == (5, 260, 44), "with the check before"
        assert used["cost"] == pytest.approx(260 * 10 / 1e6)
        assert not has_ended(job.folder)
        server.script = [said("turn them round")]
        run_job(job, resume=True, quiet=True)
        assert has_ended(job.folder)
        assert [event["round"] for event in load_run(job.folder).rounds] == [0, 1]
        assert any(prompt.text == "turn them round" for prompt in load_run(job.folder).prompts)
