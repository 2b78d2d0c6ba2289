"""The command lines: help, mistakes that end in one sentence and exit code 2, nothing left behind, no telemetry."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError, MissingArgumentError

from fst.cli import app, main
from fst.telemetry import OFF
from pipelines.__main__ import app as flows
from pipelines.__main__ import main as pipelines

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = {
    "train": "Train one arm on one domain",
    "run": "Train fst, rl and gepa on each domain",
    "distill": "so that the seed prompt does as well",
    "report": "an HTML page",
    "evaluate": "Measure mean@n and KL",
    "doctor": "List what is missing",
    "model import": "Turn a GGUF file into an ordinary model folder",
    "lab-base build": "Pretrain the lab's base model from scratch",
    "lab-base card": "Measure what the base model can do",
    "bench speed": "Compare an RL step with plain TRL's",
    "stage base": "Pack the untrained model",
    "stage prepare": "Deal a domain's problems into splits",
    "stage validate": "Run the data suites on a domain's prepared problems",
    "stage train": "Train a domain on the bundle that it builds on",
    "stage evaluate": "each domain on its test split",
    "stage bundle": "Pack a domain's adapter, prompts and evaluation",
    "validate": "Run the data suites on your own problem file",
    "release": "Judge a domain's bundle against production",
    "rollback": "Move a channel back",
    "bundles list": "List every bundle in the store",
    "bundles show": "Show one bundle",
    "bundles diff": "prompts side by side",
    "bundles gc": "Remove bundles that no channel ever pointed at",
    "push": "Upload a release to the Hugging Face hub",
    "export": "rollouts and prompts as tables",
    "explain": "Show where a bundle comes from",
    "reproduce": "Rebuild a bundle",
    "serve": "over an OpenAI-compatible API",
    "keys add": "Make a key and print it once",
    "monitor": "Watch the traffic log for drift",
    "simulate": "Send a traffic scenario",
    "ingest": "Turn scored traffic of a domain into a problem file",
    "bench gateway": "Measure what the gateway costs over the engine alone",
    "bench rollouts": "model.generate",
    "bench drift": "false alarms",
    "bench router": "each is left out in turn",
    "bench poison": "who is named for it",
    "bench proposals": "scored on all anchors",
    "bench claims": "Rerun the paper's experiments",
    "bench ablations": "Train FST with one thing changed",
}
FLOWS = ("continual", "prepare", "train", "evaluate", "release", "adapt")
ORCHESTRATION = (*(f"flow {name}" for name in FLOWS), "deploy", "monitor", "live", "overhead")
GROUPS = ("", "stage", "bundles", "bench", "keys", "lab-base", "model")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def ask_help(capsys: pytest.CaptureFixture[str], entry: Callable[[Sequence[str]], int], *command: str) -> str:
    assert entry([*command, "--help"]) == 0
    out, errors = capsys.readouterr()
    assert errors == ""
    return " ".join(re.sub("[│─╭╮╰╯]", " ", out).split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, main)
    assert text.startswith("Usage: fst COMMAND")
    assert set(COMMANDS) == set(leaves(app)), "and the table of this test is whole"
    for command in COMMANDS:
        assert re.search(rf" {command.split()[0]} [A-Z]", text), command


def leaves(parent: App, *before: str) -> Iterator[str]:
    """Every command that does something, by the words that call it."""
    for name in parent:
        if not name.startswith("-"):
            words = (*before, name)
            yield from [" ".join(words)] if parent[name].default_command else leaves(parent[name], *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, main, *command.split())
    assert COMMANDS[command] in text
    assert re.search(rf"Example: fst {command}\b", text)


@pytest.mark.parametrize("command", ORCHESTRATION)
def test_every_flow_says_what_it_does_and_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, pipelines, *command.split())
    assert set(ORCHESTRATION) == set(leaves(flows))
    assert re.search(rf"Example: (PREFECT_API_URL=\S+ )?python -m pipelines {command}\b", text)
    assert "Folder of params.yaml and dvc.yaml. [default: .]" in text


def parameters(parent: App) -> Iterator[tuple[str, str]]:
    """(command, description) of every parameter of every command."""
    for words in leaves(parent):
        found = parent
        for word in words.split():
            found = found[word]
        for argument in found.assemble_argument_collection(parse_docstring=True).filter_by(show=True):
            yield f"{words} {argument.name}", argument.parameter.help or ""


@pytest.mark.parametrize("parent", [app, flows], ids=["fst", "pipelines"])
def test_every_option_is_described(parent: App) -> None:
    described = dict(parameters(parent))
    assert len(described) > 20
    assert [name for name, text in described.items() if not text] == []


@pytest.mark.parametrize("group", GROUPS)
def test_without_a_command_the_help_is_shown(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(group.split()) == 0
    out, errors = capsys.readouterr()
    assert out.startswith(f"Usage: fst {group} COMMAND".replace("  ", " "))
    assert errors == ""


def test_help_of_train_shows_every_kind_of_domain(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, main, "train")
    for spec in ("lab/sort_desc+add_one", "star_graph/", "reasoning_gym/", "jsonl:", "hub:"):
        assert spec in text


def test_help_of_claims_says_what_each_claims(capsys: pytest.CaptureFixture[str]) -> None:
    text = ask_help(capsys, main, "bench", "claims")
    assert "C6 cold start: reward leaves zero" in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("fast-slow-training")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian"], 'unknown command "trian". Did you mean "train"? See `fst --help`.'),
        (["bundles", "lits"], 'unknown command "lits". Did you mean "list"? See `fst bundles --help`.'),
        (["train", "--amr", "fst"], "unknown option: --amr. Did you mean --arm? See `fst train --help`."),
        (
            ["train", "--arm", "both"],
            'invalid value "both" for --arm. Choose from: "fst", "rl", "gepa", "rl_gepa", "gepa_rl", "distill".',
        ),
        (["train", "--seed", "x"], 'invalid value for --seed: unable to convert "x" into int.'),
        (["train", "sort_add"], "unexpected argument: sort_add. See `fst train --help`."),
        (["train", "--no-quiet"], "unknown option: --no-quiet. Did you mean --quiet?"),
        (["train", "--domain", "a", "--data", "b"], "--domain, --data: give one of the two"),
        (["run", "--seeds"], 'command "run" parameter --seeds requires at least 1 element.'),
        (["validate"], 'command "validate" parameter --data requires an argument.'),
        (["stage", "train"], 'command "stage train" parameter NAME requires an argument.'),
        (["bundles", "diff", "a"], 'command "bundles diff" parameter SECOND requires an argument.'),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"fst: {sentence}")
    assert errors.count("\n") == 1


def test_a_wrong_flow_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert pipelines(["flow", "ingest", "a"]) == 2
    assert capsys.readouterr().err == 'fst: unknown command "ingest". See `python -m pipelines flow --help`.\n'


def parsed(*arguments: str) -> tuple[str, inspect.BoundArguments]:
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    return command.__name__, bound


def test_options_with_several_values_and_repeated_ones() -> None:
    words = "run --arms rl gepa --seeds 0 1 2 --domain a --domain b --set a.b=1 --set c.d=-2 --runs there --quiet"
    name, bound = parsed(*words.split())
    assert (name, bound.arguments["arms"], bound.arguments["seeds"]) == ("run", ("rl", "gepa"), (0, 1, 2))
    assert bound.arguments["domain"] == ("a", "b")
    settings = bound.arguments["settings"]
    assert (settings.set, settings.runs, settings.quiet) == (("a.b=1", "c.d=-2"), Path("there"), True)
    _, claims = parsed("bench", "claims", "C1", "C7", "--seeds", "3", "4", "--set", "a.b=1", "--budget", "full")
    assert claims.arguments["claims"] == ("C1", "C7")
    assert (claims.arguments["seeds"], claims.arguments["extent"].budget) == ((3, 4), "full")


def test_a_model_overrides_the_params_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("model: {base: lab, max_new_tokens: 9}\nloop: {cycles: 2}\n")
    file = str(tmp_path / "params.yaml")
    _, bound = parsed("train", "--params", file, "--model", "mine", "--set", "loop.cycles=5")
    params = bound.arguments["settings"].read()
    assert (params.model.base, params.model.max_new_tokens, params.loop.cycles) == ("mine", 9, 5)


@pytest.mark.parametrize(("shell", "startup"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", "")])
def test_completion_knows_commands_and_options(
    shell: str, startup: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the shell's startup file lies there
    script = tmp_path / "completions" / "fst"
    assert main(["--install-completion", "--shell", shell, "--output", str(script)]) == 0
    for word in ("train", "bundles", "ablations", "arm", "older-than-hours"):
        assert word in script.read_text()
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"completions/fst"} | ({startup} if startup else set())


ENTRY = r"((?:fst|python -m pipelines) [a-z]"  # quoted; on a line of its own, or an example; in dvc.yaml
MENTIONED = re.compile(rf"""[`"]{ENTRY}[^`"]*)[`"]|^(?: +Example: )?{ENTRY}.*)|cmd: {ENTRY}.*)""", re.MULTILINE)


def mentions() -> Iterator[tuple[str, str]]:
    """(file, command) of every command in backticks, on a line of its own in a document, or of a DVC stage."""
    files = [ROOT / "README.md", ROOT / "dvc.yaml", *ROOT.glob("docs/*.md"), *ROOT.glob("fst/**/*.py")]
    for file in (*files, *ROOT.glob("pipelines/*.py")):
        for found in MENTIONED.finditer(file.read_text(encoding="utf-8")):
            line = re.sub(r"\{[^}]*\}", "X", next(filter(None, found.groups()))).partition("  #")[0]
            for command in re.split(r"[;&>]", line):
                yield file.relative_to(ROOT).as_posix(), command.strip()


def test_every_command_that_is_mentioned_exists() -> None:
    found = sorted(set(mentions()))
    assert {"README.md", "dvc.yaml", "docs/operations.md", "fst/stages/outputs.py"} <= {file for file, _ in found}
    wrong = []
    for file, command in found:
        parent, words = (app, command[4:]) if command.startswith("fst ") else (flows, command[20:])
        try:
            parent.parse_args([w for w in shlex.split(words) if w != "..."], exit_on_error=False, print_error=False)
        except CycloptsError as error:
            if not isinstance(error, MissingArgumentError):  # a command that is only named
                wrong.append(f"{file}: {command}: {error}")
    assert wrong == []


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
        ("reflector.kind=endpoint", "reflector.endpoint_model: name the model"),
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
fst.cli.main(["train", "--help"])
fst.cli.main(["trian"])
fst.cli.main(["train", "--amr", "fst"])
heavy = [m for m in ("torch", "transformers", "trl", "gepa", "datasets", "pandas", "sympy", "reasoning_gym",
    "math_verify", "pydantic", "prefect", "dvc", "scipy", "numpy") if m in sys.modules]
print(json.dumps([heavy, dict(os.environ)]))
"""


def test_telemetry_is_off_and_help_loads_no_heavy_library() -> None:
    clean = {key: value for key, value in os.environ.items() if key not in OFF}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=clean, capture_output=True, text=True, check=True)
    heavy, environment = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    assert {key: environment.get(key) for key in OFF} == OFF
    assert {"DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"} <= set(OFF)


@pytest.mark.parametrize("words", ["trian", "train --amr fst", "--help", "--version", "", "bundles"])
def test_a_mistake_is_noticed_in_a_second(words: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "fst.cli", *words.split()], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == (0 if words in ("--help", "--version", "", "bundles") else 2)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0, "seconds of one core"


WRONG_VALUES = [
    ["train", "--set", "loop.cycle=3"],
    ["train", "--domain", "labb/x"],
    ["train", "--data", "no-such-file.jsonl"],
    ["run", "--domain", "labb/x"],
    ["validate", "no-such-file.jsonl"],
    ["report", "no-such-run"],
    ["export", "no-such-run"],
    *(
        [*command, "--set", "loop.cycle=3"]
        for command in (["stage", "train", "x"], ["serve"], ["monitor"], ["push", "a/b"])
    ),
    *(["stage", stage, "nowhere"] for stage in ("prepare", "validate", "train", "evaluate", "bundle")),
    ["push", "no-slash"],
]


def test_a_wrong_value_is_noticed_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import json, sys, fst.cli\n"
        f"codes = [fst.cli.main(words) for words in {WRONG_VALUES!r}]\n"
        "heavy = ('torch', 'transformers', 'great_expectations', 'evidently', 'sklearn', 'datasets')\n"
        "print(json.dumps([codes, [m for m in heavy if m in sys.modules]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=placed(), capture_output=True, text=True)
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert set(codes) == {2}, done.stderr
    assert heavy == []


def placed() -> dict[str, str]:
    """The environment, with this checkout's code wherever the process stands."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def test_a_choice_of_the_user_is_kept() -> None:
    wanted = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    code = "import fst.cli, os; print(os.environ['TOKENIZERS_PARALLELISM'])"
    done = subprocess.run([sys.executable, "-c", code], env=wanted, capture_output=True, text=True, check=True)
    assert done.stdout == "true\n"
