"""What a module imports, read from its source, and everything that a module leads to."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_ROW = re.compile(r"(fst(?:\.\w+)+):\w+")  # of a table of fst/tables.py: what it names is imported by that name


@functools.cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def imports(path: str, source: str) -> Iterator[str]:
    """Dotted names of everything imported, anywhere in the file: `from fst import slow` gives fst.slow, relative
    imports are made absolute, and importlib.import_module("x") counts."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parent, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def closure(module: str, root: Path = ROOT) -> set[str]:
    """Paths below `root` of the files that importing a module of `fst` may read, directly or not: modules, the packages
    around them, rows of tables, and files that a module names and that lie beside it (templates, data)."""
    found: set[str] = set()
    waiting = list(_files(module, root))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            if path.endswith(".py"):
                waiting += _leads_to(path, root)
    return found


def _leads_to(path: str, root: Path) -> Iterator[str]:
    source = (root / path).read_text(encoding="utf-8")
    for name in imports(path, source):
        yield from _files(name, root)
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if row := _ROW.fullmatch(node.value):
                yield from _files(row[1], root)
            elif "." in node.value and re.fullmatch(r"[\w.-]+", node.value):
                beside = Path(path).parent / node.value
                if (root / beside).is_file():
                    yield beside.as_posix()


def _files(name: str, root: Path) -> Iterator[str]:
    """The files of a dotted name: its module and the packages around it. A last part that is no module is an
    attribute."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1) if parts[0] == "fst" else ():
        stem = Path(*parts[:end])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if (root / path).is_file():
                yield path.as_posix()
