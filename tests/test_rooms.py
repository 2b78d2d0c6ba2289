"""The house rules that a parser can check: one library one room, imports one way, sizes, asserts, errors.

Every rule is a function from a path and a source text to complaints. It is run over the project, and over planted
sources that break it, so that no rule holds because it looks at nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from fnmatch import fnmatch

import pytest

from support.imports import ROOT, imports, parse

ROOMS = ("fst", "pipelines")

LIBRARY_ROOMS = {
    "trl": ("fst/method/slow/trainer.py",),
    "gepa": ("fst/method/fast/round.py", "fst/method/fast/rules.py", "fst/models/reply.py"),
    "openai": ("fst/models/endpoint.py",),
    "transformers": ("fst/models/*", "fst/method/slow/trainer.py"),
    "peft": ("fst/models/*",),
    "vllm": ("fst/models/engines/*",),
    "httpx": (
        "fst/models/engines/vllm.py",
        "fst/models/engines/vllm_server.py",
        "fst/bench/rollouts.py",
        "fst/traffic/simulate.py",
        "fst/monitoring/alerts.py",
        "fst/release/hub.py",
    ),
    "apprise": ("fst/monitoring/alerts.py",),
    "pydantic": ("fst/config/*",),
    "boto3": ("fst/store/s3.py",),
    "botocore": ("fst/store/s3.py",),
    "reasoning_gym": ("fst/data/families/reasoning_gym.py",),
    "verifiers": ("fst/data/families/environment_child.py",),
    "opentelemetry": ("fst/spans.py",),
    "math_verify": ("fst/data/math_answers.py",),
    "babel": ("fst/data/numbers.py",),
    "datasets": (
        "fst/data/families/hub.py",
        "fst/method/slow/weights.py",
        "fst/method/slow/trainer.py",
        "fst/runs/export.py",
    ),
    "huggingface_hub": ("fst/release/hub.py",),
    "mlflow": ("fst/runs/trackers.py",),
    "trackio": ("fst/runs/trackers.py",),
    "great_expectations": ("fst/data/validation/*",),
    "dvc": ("pipelines/graph.py",),
    "cryptography": ("fst/store/signing.py",),
    "filelock": ("fst/store/local.py", "fst/runs/records.py", "fst/models/gguf.py"),
    "gguf": ("fst/models/gguf.py",),
    "matplotlib": ("fst/report/figures.py", "fst/report/live.py", "fst/claims/page.py"),
    "evidently": ("fst/monitoring/*",),
    "prefect": ("pipelines/*",),
    "starlette": (
        "fst/serving/app.py",
        "fst/serving/build.py",
        "fst/serving/door.py",
        "fst/serving/replies.py",
        "fst/monitoring/dashboard*.py",
    ),
    "uvicorn": ("fst/serving/build.py",),
    "limits": ("fst/serving/allowance.py",),
    "cyclopts": ("fst/cli/*", "fst/commandline.py", "pipelines/__main__.py"),
    "prometheus_client": ("fst/serving/metrics.py",),
    "sklearn": ("fst/serving/router.py", "fst/bench/measures.py", "fst/monitoring/*"),
}

# The rooms of `fst`, lowest first: a room imports from those before it, never from those after it. The vocabulary is
# the modules that lie in `fst` itself.
ORDER = (
    *("vocabulary", "config", "data", "traffic", "models", "store", "runs", "method", "stages", "release", "report"),
    *("serving", "monitoring", "claims", "bench", "cli"),
)
TRAINERS = ("fst.method.slow", "fst.method.fast", "fst.method.loop")

LONGEST_FILE = 300
MOST_PARAMETERS = 7

Rule = Callable[[str, str], list[str]]


def modules() -> dict[str, str]:
    """Path (posix, from the root) -> source, of every module that is not a test."""
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def libraries_stay_in_their_room(path: str, source: str) -> list[str]:
    used = {name.split(".")[0] for name in imports(path, source)} & set(LIBRARY_ROOMS)
    return [
        f"{path}: imports {library}, which belongs to {', '.join(LIBRARY_ROOMS[library])}"
        for library in sorted(used)
        if not any(fnmatch(path, pattern) for pattern in LIBRARY_ROOMS[library])
    ]


def room_of(module: str) -> str:
    """The room of a dotted name: `pipelines`, `tests`, a room of `fst`, or "" for what is not the project's."""
    top, _, rest = module.partition(".")
    if top != "fst":
        return top if top in (*ROOMS, "tests", "support") else ""
    room = rest.partition(".")[0]
    return room if room in ORDER else "vocabulary"


def imports_go_one_way(path: str, source: str) -> list[str]:
    room = room_of(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    allowed = (*ORDER[:-1], "pipelines") if room == "pipelines" else ORDER[: ORDER.index(room) + 1]
    complaints = []
    for name in imports(path, source):
        target = room_of(name)
        if target and target not in allowed:
            complaints.append(f"{path}: may not import {name}")
        if room == "monitoring" and within(name, TRAINERS):
            complaints.append(f"{path}: monitoring may not depend on the trainer {name}")
    return complaints


def files_are_short(path: str, source: str) -> list[str]:
    lines = source.count("\n")
    return [f"{path}: {lines} lines, more than {LONGEST_FILE}"] if lines > LONGEST_FILE else []


def functions_take_few_parameters(path: str, source: str) -> list[str]:
    complaints = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            a = node.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            names = names[1:] if names[:1] in (["self"], ["cls"]) else names
            if len(names) > MOST_PARAMETERS:
                complaints.append(f"{path}:{node.lineno}: {len(names)} parameters")
    return complaints


def asserts_say_why(path: str, source: str) -> list[str]:
    """An assert is for what cannot happen, never for user input: a comment on or above it says why it cannot."""
    lines = ["", *source.splitlines()]
    return [
        f"{path}:{node.lineno}: an assert without a comment; raise an error of fst/errors.py for a user's mistake"
        for node in ast.walk(parse(source))
        if isinstance(node, ast.Assert)
        and not lines[node.lineno - 1].lstrip().startswith("#")
        and "#" not in lines[node.end_lineno or node.lineno]
    ]


def error_classes() -> set[str]:
    tree = parse((ROOT / "fst" / "errors.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"FstError"}


def raised(source: str) -> set[str]:
    """Names of what is raised, also where a class is made in one place and raised in another."""
    made = {ast.unparse(n.func).split(".")[-1] for n in ast.walk(parse(source)) if isinstance(n, ast.Call)}
    bare = {ast.unparse(n.exc).split(".")[-1] for n in ast.walk(parse(source)) if isinstance(n, ast.Raise) and n.exc}
    return made | bare


RULES = [
    libraries_stay_in_their_room,
    imports_go_one_way,
    files_are_short,
    functions_take_few_parameters,
    asserts_say_why,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps(rule: Rule) -> None:
    sources = modules()
    assert {path.split("/")[0] for path in sources} == set(ROOMS)
    complaints = [complaint for path, source in sources.items() for complaint in rule(path, source)]
    assert not complaints, "\n".join(complaints)


PLANTED: list[tuple[Rule, str, str]] = [
    (libraries_stay_in_their_room, "fst/method/loop.py", "import trl"),
    (libraries_stay_in_their_room, "fst/method/loop.py", "from trl.trainer import GRPOTrainer"),
    (libraries_stay_in_their_room, "fst/method/slow/dealing.py", "from trl import GRPOTrainer"),
    (libraries_stay_in_their_room, "fst/method/slow/weights.py", "def f():\n    import transformers.utils as u"),
    (libraries_stay_in_their_room, "fst/cli/doctor.py", "import importlib\nimportlib.import_module('prefect.flows')"),
    (libraries_stay_in_their_room, "fst/store/s3.py", "__import__('great_expectations')"),
    (libraries_stay_in_their_room, "fst/models/endpoint.py", "import httpx"),
    (libraries_stay_in_their_room, "fst/models/reflector.py", "from openai import OpenAI"),
    (libraries_stay_in_their_room, "pipelines/adapt.py", "from evidently import Report"),
    (imports_go_one_way, "fst/data/domains.py", "from fst.models.policy import Policy"),
    (imports_go_one_way, "fst/data/families/hub.py", "import fst.method.loop"),
    (imports_go_one_way, "fst/data/domains.py", "from fst.runs import records"),
    (imports_go_one_way, "fst/models/policy.py", "from fst.method.slow.weights import train"),
    (imports_go_one_way, "fst/models/engines/vllm.py", "from ...method import loop"),
    (imports_go_one_way, "fst/method/loop.py", "import pipelines"),
    (imports_go_one_way, "fst/method/loop.py", "from fst.monitoring import alerts"),
    (imports_go_one_way, "fst/method/loop.py", "from tests.test_rooms import ROOT"),
    (imports_go_one_way, "fst/method/loop.py", "from support.slow_toys import toy"),
    (imports_go_one_way, "fst/types.py", "from fst.data.types import Problem"),
    (imports_go_one_way, "fst/types.py", "from .method.loop import run"),
    (imports_go_one_way, "fst/config/__init__.py", "from fst.runs.records import Record"),
    (imports_go_one_way, "fst/stages/train.py", "from fst.cli import main"),
    (imports_go_one_way, "fst/monitoring/alerts.py", "from fst.method.loop import run"),
    (imports_go_one_way, "pipelines/monitor.py", "from fst.cli.traffic import monitor"),
    (imports_go_one_way, "fst/monitoring/alerts.py", "from fst.method import slow"),
    (files_are_short, "fst/method/loop.py", "x = 1\n" * 301),
    (functions_take_few_parameters, "fst/method/loop.py", "def f(a, b, c, d, e, f, g, h): ..."),
    (functions_take_few_parameters, "fst/method/loop.py", "async def f(a, /, b, c, d, e, f, *, g, h): ..."),
    (functions_take_few_parameters, "fst/method/loop.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h): ..."),
    (asserts_say_why, "fst/method/loop.py", "x = 1\nassert x"),
    (asserts_say_why, "fst/method/loop.py", "def f():\n    assert (\n        1\n    )"),
]


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED)
def test_a_planted_violation_is_caught(rule: Rule, path: str, source: str) -> None:
    complaints = rule(path, source)
    assert len(complaints) >= 1
    assert complaints[0].startswith(path)


KEPT: list[tuple[Rule, str, str]] = [
    (libraries_stay_in_their_room, "fst/method/slow/trainer.py", "from trl import GRPOTrainer\nimport datasets"),
    (libraries_stay_in_their_room, "pipelines/adapt.py", "import prefect"),
    (libraries_stay_in_their_room, "fst/store/s3.py", "import boto3"),
    (libraries_stay_in_their_room, "fst/method/loop.py", "from fst.trl import x\nimport vllm_notes"),
    (imports_go_one_way, "fst/data/domains.py", "from fst.errors import DataError\nfrom fst import config"),
    (imports_go_one_way, "fst/config/__init__.py", "from fst.errors import ConfigError"),
    (imports_go_one_way, "fst/cli/__init__.py", "from fst.monitoring import alerts"),
    (
        imports_go_one_way,
        "fst/monitoring/alerts.py",
        "from fst.runs.records import read\nfrom fst.method import slowness",
    ),
    (imports_go_one_way, "pipelines/train.py", "from fst.method.loop import run"),
    (files_are_short, "fst/method/loop.py", "x = 1\n" * 300),
    (functions_take_few_parameters, "fst/method/loop.py", "class A:\n    def f(self, a, b, c, d, e, f, g): ..."),
    (
        functions_take_few_parameters,
        "fst/config/__init__.py",
        "class A:\n" + "".join(f"    x{i}: int\n" for i in range(9)),
    ),
    (asserts_say_why, "fst/method/loop.py", "# cannot be empty: made above\nassert x"),
    (asserts_say_why, "fst/method/loop.py", "assert x  # cannot be empty: made above"),
]


@pytest.mark.parametrize(("rule", "path", "source"), KEPT)
def test_what_the_rule_allows_passes(rule: Rule, path: str, source: str) -> None:
    assert rule(path, source) == []


def test_every_library_is_imported_where_its_room_exists() -> None:
    """A misspelt row of the table would guard nothing: a room that exists by its exact file must use its library."""
    sources = modules()
    for library, patterns in LIBRARY_ROOMS.items():
        for path in set(patterns) & set(sources):
            assert library in {name.split(".")[0] for name in imports(path, sources[path])}, f"{path}: no {library}"


def test_every_folder_is_a_room_with_a_place_in_the_order() -> None:
    folders = {path.split("/")[1] for path in modules() if path.startswith("fst/") and path.count("/") > 1}
    assert folders == set(ORDER) - {"vocabulary"}


def test_the_folders_of_the_method_list_what_is_in_them() -> None:
    for listing in (ROOT / "fst" / "method").rglob("__init__.py"):
        lines = (ast.get_docstring(parse(listing.read_text(encoding="utf-8"))) or "").splitlines()[2:]
        files = {file.name for file in listing.parent.glob("*.py")} - {"__init__.py"}
        folders = {f"{inner.parent.name}/" for inner in listing.parent.glob("*/__init__.py")}
        assert {line.split()[0] for line in lines} == files | folders, listing.parent


def test_every_error_class_is_raised_somewhere() -> None:
    used = set().union(*(raised(source) for path, source in modules().items() if path != "fst/errors.py"))
    assert error_classes() - used == set()


def test_the_tree_in_errors_py_shows_every_error() -> None:
    """With the file that it is in, where that is another one."""
    shown = {}
    for line in (ast.get_docstring(parse((ROOT / "fst" / "errors.py").read_text(encoding="utf-8"))) or "").splitlines():
        name, _, says = line.lstrip("|`- ").partition(" ")
        if line[:1] in "|`" and name:
            place = says.strip().partition(":")[0]
            shown[name] = place if place.endswith(".py") else "fst/errors.py"
    bases = error_classes() | {"FstError"}
    found = {
        node.name: path
        for path, source in modules().items()
        for node in parse(source).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if {ast.unparse(base) for base in node.bases} & bases
    }
    assert shown == found


def test_an_error_class_that_nobody_raises_would_be_noticed() -> None:
    assert "ConfigError" in error_classes()
    assert raised("raise ConfigError('x')\nraise errors.DataError\nmake(ModelError)") >= {"ConfigError", "DataError"}
    assert "RecordError" not in raised("try:\n    f()\nexcept RecordError:\n    pass")
