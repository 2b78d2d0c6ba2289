"""Dockerfile and compose.yaml, as far as a machine without an engine can tell. B1 stages, files, extras and commands of
the Dockerfile are there; B2 the compose file is valid by the schema of the Compose specification, and its targets,
files, volumes and services are there; B3 whoever is asked at an
address listens there, and ports are published on loopback alone; B4 every variable is one that its reader knows, and
those of the user are in the documentation; B5 commands are ones that the command lines take."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import opentelemetry.sdk.environment_variables as otel
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from docker.utils.build import exclude_paths
from jsonschema.validators import validator_for

from fst.cli import app as fst_app
from fst.config import load_params
from fst.extras import EXTRAS
from pipelines.__main__ import app as pipelines_app
from support.imports import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
DEFAULT_PORTS = {"prometheus": 9090, "grafana": 3000}  # of the images of others
MADE = {"./keys.json", "./reports"}  # by the user or by the project: in no clone
OTHERS = {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "GF_AUTH_ANONYMOUS_ENABLED", "GF_ANALYTICS_REPORTING_ENABLED"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments; a continued line is one."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


def stages() -> dict[str, str]:
    """The name of each stage and what it is built from."""
    return {rest.split()[2]: rest.split()[0] for word, rest in instructions() if word == "FROM"}


def command(service: dict[str, Any]) -> list[str]:
    given = service.get("command", [])
    return shlex.split(given) if isinstance(given, str) else [str(word) for word in given]


def test_b1_stages() -> None:
    known = ["python:3.11-slim"]
    for name, source in stages().items():
        assert source in known, f"{name} is built from {source}, which is not there yet"
        known.append(name)
    assert {"gateway", "worker", "trainer"} <= set(known)
    assert {word for word, _ in instructions()} <= {
        "FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "CMD", "ENTRYPOINT",
    }  # fmt: skip


def test_b1_nothing_runs_as_root() -> None:
    users, stage = {}, ""
    for word, rest in instructions():
        if word == "FROM":
            stage, source = rest.split()[2], rest.split()[0]
            users[stage] = users.get(source, "root")
        if word == "USER":
            users[stage] = rest
    assert {users[name] for name in ("gateway", "worker", "trainer")} == {
        "1000"
    }  # a number, which Kubernetes can check
    assert any("useradd --uid 1000 " in rest for word, rest in instructions() if word == "RUN")


def test_b1_files_and_extras() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    context = set(exclude_paths(str(ROOT), ignored))
    for rest in (rest for word, rest in instructions() if word == "COPY"):
        sources = [part for part in rest.split()[:-1] if not part.startswith("--")]
        assert [s for s in sources if s != "." and s not in context] == []
    installed = [re.findall(r"\.\[(.*?)\]", rest) for word, rest in instructions() if word == "RUN"]
    extras = {extra for found in installed for listed in found for extra in listed.split(",")}
    assert extras - set(EXTRAS) == set()
    assert {"serving", "pipelines", "s3", "otel", "gguf"} <= extras
    pythons = [json.loads(rest) for word, rest in instructions() if word in ("CMD", "ENTRYPOINT")]
    files = [word for words in pythons for word in words if "/" in word]
    assert files == ["pipelines/accelerate/ddp.yaml"]
    assert {*files, "pyproject.toml", "params.yaml", "models/lab_base/model.safetensors"} <= context


def test_b2_the_schema_of_the_compose_specification() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    validator = validator_for(schema)(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(COMPOSE)] == []
    wrong = {**COMPOSE, "services": {"s3": {**SERVICES["s3"], "port": ["9000:9000"]}}}
    assert [error.json_path for error in validator.iter_errors(wrong)] == ["$.services.s3"]


def test_b2_targets_volumes_and_services() -> None:
    named = set(COMPOSE["volumes"])
    used = set()
    for name, service in SERVICES.items():
        assert ("build" in service) == service["image"].startswith("fst-"), name
        if "build" in service:
            assert (service["build"]["context"], service["build"]["target"] in stages()) == (".", True), name
            assert set(service["build"].get("args", {})) <= {r for word, r in arguments() if word == "ARG"}, name
        for volume in service.get("volumes", ()):
            source, inside = volume.split(":")[:2]
            assert inside.startswith("/")
            if source.startswith("."):
                assert source in MADE or (ROOT / source).exists(), f"{name}: {source}"
            else:
                used.add(source)
        for other, how in dict(depends(service)).items():
            assert other in SERVICES, name
            assert how != "service_healthy" or "healthcheck" in SERVICES[other], f"{name}: {other} tells no health"
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    assert used == named
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} <= MADE


def arguments() -> list[tuple[str, str]]:
    return [(word, rest.partition("=")[0]) for word, rest in instructions() if word == "ARG"]


def depends(service: dict[str, Any]) -> list[tuple[str, str]]:
    given = service.get("depends_on", {})
    return [(name, how["condition"]) for name, how in given.items()] if isinstance(given, dict) else [
        (name, "service_started") for name in given
    ]  # fmt: skip


def listens() -> dict[str, int]:
    """Service -> the port that it listens on, by its command or else its image."""
    found = dict(DEFAULT_PORTS)
    for name, service in SERVICES.items():
        if match := re.search(r"(?:--port |--address :|serve\.port=)(\d+)", " ".join(command(service))):
            found[name] = int(match[1])
    return found


def test_b3_addresses_and_ports() -> None:
    ports = listens()
    assert ports == {"gateway": 8080, "prefect": 4200, "s3": 9000, "prometheus": 9090, "grafana": 3000}
    for name, service in SERVICES.items():
        for published in service.get("ports", ()):
            host, outside, inside = published.split(":")
            assert (host, outside, int(inside)) == ("127.0.0.1", inside, ports[name])
        for port in re.findall(r"http://127\.0\.0\.1:(\d+)", json.dumps(service.get("healthcheck", {}))):
            assert int(port) == ports[name]
    folder = ROOT / "monitoring"
    configured = [path.read_text() for path in folder.rglob("*.yml") if path != folder / "prometheus.yml"]
    asked = re.findall(r"(?:http://|[\"'])([a-z0-9]+):(\d{4})\b", "\n".join([TEXT, *configured]))
    assert {name for name, _ in asked} >= {"s3", "prefect", "gateway", "prometheus"}
    assert {name: int(port) for name, port in asked} == {name: ports[name] for name, _ in asked}


def test_b3_grafana_reads_what_is_mounted() -> None:
    inside = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    provider = yaml.safe_load((ROOT / "monitoring/grafana/dashboards/fst.yml").read_text())["providers"][0]
    assert any(path.startswith(f"{provider['options']['path']}/") for path in inside)
    config = re.search(r"--config\.file=/etc/prometheus/(\S+)", " ".join(command(SERVICES["prometheus"])))
    assert config is not None
    assert (ROOT / "monitoring" / config[1]).is_file()


@pytest.mark.slow
def test_b4_variables_are_known_to_who_reads_them() -> None:
    import prefect.settings

    stage_env = [re.findall(r"\b([A-Z][A-Z0-9_]+)=", rest) for word, rest in instructions() if word == "ENV"]
    given = {name for found in stage_env for name in found}
    given |= {name for service in SERVICES.values() for name in service.get("environment", {})}
    telemetry = (ROOT / "fst" / "telemetry.py").read_text()
    known = OTHERS | {name for name in given if name.startswith("PREFECT_") and hasattr(prefect.settings, name)}
    known |= {value for value in vars(otel).values() if isinstance(value, str)}
    known |= {"AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"}
    known |= {"PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK", "PYTHONUNBUFFERED"}
    assert {name for name in given - known if f'"{name}"' not in telemetry} == set()
    assert not hasattr(prefect.settings, "PREFECT_API_URI"), "Prefect tells the names of its settings"


def test_b4_the_user_s_variables_are_documented() -> None:
    asked = set(re.findall(r"\$\{(\w+)", TEXT))
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert asked == {"FST_S3_KEY", "FST_S3_SECRET", "FST_S3_IMAGE", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert {name for name in asked if f"`{name}`" not in documented} == set()
    assert set(re.findall(r"\$(?!\{)(\w+)", TEXT)) == set()


def test_b5_commands_are_taken() -> None:
    words = [json.loads(rest) for word, rest in instructions() if word == "CMD"]
    words += [command(SERVICES[name]) for name in ("gateway", "worker", "monitor")]
    for program, *rest in words:
        if program == "fst":
            fst_app.parse_args(rest, print_error=False, exit_on_error=False)
        elif program == "python":
            assert rest[:2] == ["-m", "pipelines"]
            pipelines_app.parse_args(rest[2:], print_error=False, exit_on_error=False)
    overrides = [word for word in command(SERVICES["gateway"]) if "=" in word]
    params = load_params(ROOT / "params.yaml", overrides)
    assert (params.serve.host, params.serve.port, params.serve.keys) == ("0.0.0.0", 8080, "/run/secrets/keys")


@pytest.mark.slow
def test_b5_prefect_s_command_is_taken() -> None:
    program, *rest = command(SERVICES["prefect"])
    prefect = Path(sys.executable).with_name(program)
    done = subprocess.run([prefect, *rest[:2], "--help"], capture_output=True, text=True, check=True)
    assert [option for option in rest if option.startswith("--") and option not in done.stdout] == []


@pytest.mark.slow
def test_b5_the_bucket_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto import mock_aws

    python, flag, script = command(SERVICES["bucket"])
    assert (python, flag) == ("python", "-c")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with mock_aws():
        exec(compile(script, "bucket", "exec"), {})
        exec(compile(script, "bucket", "exec"), {})
        import boto3

        assert [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]] == ["fst"]
