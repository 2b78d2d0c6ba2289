"""The doctor on this machine, on planted faults, and what it must never do."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fst.cli.doctor import (
    OWN_ENVIRONMENTS,
    Check,
    _dvc_repository,
    _requirements,
    diagnose,
    lab_base,
    render,
    requirement,
)


def text_of(checks: list[Check]) -> str:
    screen = io.StringIO()
    Console(width=200, file=screen).print(render(checks))
    return screen.getvalue()


def base_in(folder: Path, sums: bool = True) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    if sums:
        files = sorted(folder.iterdir())
        lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files]
        (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def test_this_machine_has_what_the_tests_run_on() -> None:
    checks = {c.name: c for c in diagnose()}
    for name in ("python", "torch", "trl", "gepa", "peft", "CPU", "git", "pytest"):
        assert checks[name].ok is True, checks[name]
    assert checks["trl"].found.startswith("1.16.")
    assert "cores" in checks["CPU"].found


def test_every_finding_that_is_not_ok_says_what_to_do() -> None:
    assert [c.name for c in diagnose() if c.ok is not True and not c.remedy] == []


def test_all_declared_requirements_are_looked_at() -> None:
    names = {c.name for c in diagnose()}
    assert {"transformers", "prefect", "great-expectations", "boto3", "evidently", "vllm", "mypy"} <= names


def test_requirements_have_the_form_that_metadata_has() -> None:
    assert 'prefect>=3.8,<3.9; extra == "pipelines"' in _requirements()
    assert any(r.startswith("vllm") and r.endswith('and extra == "vllm"') for r in _requirements())


@pytest.mark.parametrize(
    ("line", "ok", "found"),
    [
        ("pytest>=7", True, pytest.__version__),
        ("pytest<7", False, f"{pytest.__version__}, wanted <7"),
        ("no-such-package-of-ours", False, "not installed"),
        ('no-such-package-of-ours; extra == "monitoring"', None, "not installed"),
        ('pytest<7; extra == "dev"', False, f"{pytest.__version__}, wanted <7"),
    ],
)
def test_a_requirement_is_compared_with_what_is_installed(line: str, ok: bool | None, found: str) -> None:
    check = requirement(line)
    assert check is not None
    assert (check.ok, check.found) == (ok, found)
    assert bool(check.remedy) is (ok is not True)


def test_a_missing_extra_is_installed_by_its_name() -> None:
    check = requirement('no-such-package-of-ours; extra == "monitoring"')
    assert check is not None
    assert check.needed_for == "watching traffic"
    assert check.remedy == "pip install -c constraints.txt -e '.[monitoring]'"


@pytest.mark.parametrize("name", ["vllm", "verifiers"])
def test_some_are_looked_for_in_an_environment_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(OWN_ENVIRONMENTS, name, (tmp_path / "env", OWN_ENVIRONMENTS[name][1]))
    check = requirement(f'{name}>=0; extra == "{name}"')
    assert check is not None
    assert (check.ok, check.remedy.split(":")[0]) == (None, f"make {name}")
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / ".installed").touch()
    check = requirement(f'{name}>=0; extra == "{name}"')
    assert check is not None
    assert (check.ok, check.found) == (True, "in env")


def test_a_requirement_of_another_platform_is_left_out() -> None:
    assert requirement("pytest; platform_system == 'Plan9'") is None


def test_a_sound_lab_base_passes(tmp_path: Path) -> None:
    check = lab_base(base_in(tmp_path))
    assert (check.ok, check.found, check.remedy) == (True, "0.0 MB, checksums agree", "")


def test_a_lab_base_without_checksums_is_not_called_sound(tmp_path: Path) -> None:
    assert lab_base(base_in(tmp_path, sums=False)).ok is None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_of_the_lab_base_is_named(tmp_path: Path, name: str) -> None:
    (base_in(tmp_path) / name).unlink()
    check = lab_base(tmp_path)
    assert (check.ok, check.found) == (False, f"{name} is missing")
    assert "fst lab-base build" in check.remedy


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"\2\0\0\0\0\0\0\0[]", b'\4\0\0\0\0\0\0\0{"a"'])
def test_a_damaged_header_is_noticed(tmp_path: Path, content: bytes) -> None:
    (base_in(tmp_path) / "model.safetensors").write_bytes(content)
    check = lab_base(tmp_path)
    assert (check.ok, check.found) == (False, f"model.safetensors is damaged ({len(content)} bytes)")


def test_a_truncated_file_is_noticed_before_its_checksum(tmp_path: Path) -> None:
    weights = base_in(tmp_path, sums=False) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert lab_base(tmp_path).ok is False


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    weights = base_in(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert lab_base(tmp_path).found == "model.safetensors is not the published file"


def test_a_folder_outside_git_is_no_dvc_repository(tmp_path: Path) -> None:
    assert _dvc_repository(tmp_path).ok is None
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    (tmp_path / "dvc.yaml").touch()
    assert _dvc_repository(tmp_path).ok is False
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert _dvc_repository(tmp_path).ok is True


def test_a_key_is_reported_as_set_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert diagnose()[-1] == Check(
        "OPENAI_API_KEY", None, "not set", "reflection by an endpoint", diagnose()[-1].remedy
    )
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-987")
    checks = diagnose()
    assert (checks[-1].ok, checks[-1].found) == (True, "set")
    assert "sk-planted-987" not in repr(checks) + text_of(checks)


def test_the_table_shows_every_field_and_does_not_read_markup() -> None:
    check = Check("name [x]", False, "[red]found[/]", "for this", "pip install '.[dev]'")
    shown = text_of([check, Check("other", None, "none", "that", "get it"), Check("third", True, "1.0", "all")])
    for text in ("name [x]", "[red]found[/]", "for this", "pip install '.[dev]'", "fix", "absent", "ok", "get it"):
        assert text in shown


def test_nothing_heavy_but_torch_is_imported() -> None:
    heavy = ["transformers", "trl", "peft", "gepa", "datasets", "prefect", "evidently", "great_expectations", "boto3"]
    code = f"import sys, fst.cli.doctor; fst.cli.doctor.diagnose(); print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[2]
    shown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
