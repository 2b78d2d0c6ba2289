"""The command line: help, mistakes that end in one sentence and exit code 2, nothing left behind, no telemetry."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fst.cli import main
from fst.telemetry import OFF

COMMANDS = {
    "train": "Train one arm on one domain",
    "run": "Train the three arms on each domain",
    "report": "HTML page",
    "evaluate": "mean@n and drift",
    "doctor": "what is missing",
    "lab-base build": "pretrain it from nothing",
    "lab-base card": "measure what it can do",
    "bench speed": "RL step against plain TRL",
    "prepare": "deal a domain's problems into splits",
    "validate": "run the data suites",
    "bundle": "pack adapter, prompts and evaluation",
    "release": "judge a domain's bundle against production",
    "rollback": "move a channel back",
    "bundles list": "every bundle of the store",
    "bundles show": "one bundle",
    "bundles diff": "prompts side by side",
    "bundles gc": "remove bundles that no channel points at",
    "explain": "where a bundle comes from",
    "reproduce": "make a bundle again",
    "serve": "over an OpenAI-compatible API",
    "keys add": "make a key and print it once",
    "monitor": "watch the traffic log for drift",
    "simulate": "send a traffic scenario",
    "ingest": "turn scored traffic of a domain into a problem file",
    "bench serve": "what the gateway costs over the engine alone",
    "bench rollouts": "model.generate",
    "bench drift": "false alarms",
    "bench claims": "rerun the paper's experiments",
    "bench ablations": "FST with one thing changed",
}


def ask_help(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    return " ".join(out.split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys)
    assert text.startswith("usage: fst")
    for command in COMMANDS:
        assert command.split()[0] in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, *command.split())
    assert COMMANDS[command] in text
    assert re.search(rf"example: fst {command}\b", text)


def test_help_of_train_shows_every_kind_of_domain(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, "train")
    for spec in ("lab/sort_desc+add_one", "star_graph/", "reasoning_gym/", "jsonl:", "hub:"):
        assert spec in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian"],
        ["train", "--arm", "both"],
        ["train", "--domain", "a", "--data", "b"],
        ["validate"],
        ["validate", "a", "--data", "b"],
        ["bundles"],
        ["bundles", "diff", "a"],
    ],
)
def test_a_wrong_call_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: fst")


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """The sentence on stderr of a call that must fail before anything is written."""
    code = main(["train", "--runs", str(folder / "runs"), "--quiet", *arguments])
    out, errors = capsys.readouterr()
    assert (code, out) == (2, "")
    assert errors.startswith("fst: ")
    assert "Traceback" not in errors
    assert not (folder / "runs").exists(), "a refused call leaves no run folder"
    return errors.removeprefix("fst: ").strip()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("labb/sort", "unknown domain 'labb/sort'; domains are written like these:"),
        ("lab/no_such_rule", "no_such_rule"),
        ("jsonl:/no/such/file.jsonl", "/no/such/file.jsonl: cannot be read (No such file"),
    ],
)
def test_an_unknown_domain_is_one_sentence(
    spec: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest = refused(capsys, tmp_path, "--domain", spec).splitlines()
    assert sentence in first
    assert all(line.startswith("  ") for line in rest), "further lines only list what can be written"


def test_bad_problems_are_named_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "mine.jsonl"
    good = json.dumps({"id": "a", "question": "1 + 1", "answer": "2"})
    data.write_text(f'{good}\n{{"id": "b", "question": \n{good}\n', encoding="utf-8")
    sentence = refused(capsys, tmp_path, "--data", str(data))
    assert f"{data}:2" in sentence


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("loop.cycle=3", "loop.cycle: unknown key; did you mean 'cycles'?"),
        ("prepare.train=0", "prepare.train: 0 is out of range"),
        ("loop.seed_prompt=a: b: c", "not readable as YAML"),
        ("slow.trl={beta: 0.5}", "slow.trl.beta: is set by slow.* in params.yaml itself"),
        ("slow.trl={no_such_option: 1}", "slow.trl: TRL refuses these options"),
        ("reflector.kind=endpoint", "endpoint"),
        ("model.base=/no/such/model", "cannot load model '/no/such/model'"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_written(
    setting: str, sentence: str, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [] if setting.startswith("model.base") else ["--model", str(tiny_model_dir)]
    small = [o for s in ("prepare.train=8", "prepare.validation=2", "prepare.test=2") for o in ("--set", s)]
    assert sentence in refused(capsys, tmp_path, *model, *small, "--set", setting)


def test_a_params_file_that_is_missing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, tmp_path, "--params", str(tmp_path / "mine.yaml"))
    assert sentence == f"{tmp_path / 'mine.yaml'}: no such file; name a params file with --params"


IMPORTS = """
import os, sys, json
import fst.cli
try:
    fst.cli.main(["train", "--help"])
except SystemExit:
    pass
heavy = [m for m in ("torch", "transformers", "trl", "gepa", "datasets", "pandas", "sympy") if m in sys.modules]
print(json.dumps([heavy, dict(os.environ)]))
"""


def test_telemetry_is_off_and_help_loads_no_heavy_library() -> None:
    clean = {key: value for key, value in os.environ.items() if key not in OFF}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=clean, capture_output=True, text=True, check=True)
    heavy, environment = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert {key: environment.get(key) for key in OFF} == OFF
    assert {"DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"} <= set(OFF)


def test_a_choice_of_the_user_is_kept() -> None:
    wanted = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    code = "import fst.cli, os; print(os.environ['TOKENIZERS_PARALLELISM'])"
    done = subprocess.run([sys.executable, "-c", code], env=wanted, capture_output=True, text=True, check=True)
    assert done.stdout == "true\n"
