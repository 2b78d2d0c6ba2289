"""The extras of the distribution: which optional packages there are, what needs them, and how to get them.

pyproject.toml says which versions. A room that needs an extra calls `require` where it is entered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

from fst.checkout import CHECKOUT
from fst.errors import MissingDependency

DISTRIBUTION = "fast-slow-training"


@dataclass(frozen=True)
class Extra:
    """What an extra is needed for, and its packages by the modules that are imported from them."""

    needed_for: str
    packages: Mapping[str, str] = field(default_factory=dict)


EXTRAS: dict[str, Extra] = {
    "data": Extra("validating data", {"great_expectations": "great-expectations", "pandas": "pandas"}),
    "reasoning-gym": Extra("a reasoning_gym domain", {"reasoning_gym": "reasoning-gym"}),
    "s3": Extra("a store on S3", {"boto3": "boto3"}),
    "signing": Extra("signing releases", {"cryptography": "cryptography"}),
    "gguf": Extra("a model in a GGUF file", {"gguf": "gguf"}),
    "serving": Extra(
        "the gateway",
        {
            "starlette": "starlette",
            "uvicorn": "uvicorn",
            "prometheus_client": "prometheus-client",
            "sklearn": "scikit-learn",
        },
    ),
    "tensorboard": Extra("track.to: tensorboard", {"tensorboard": "tensorboard"}),
    "mlflow": Extra("track.to: mlflow", {"mlflow": "mlflow-skinny"}),
    "wandb": Extra("track.to: wandb", {"wandb": "wandb"}),
    "trackio": Extra("track.to: trackio", {"trackio": "trackio"}),
    "limits": Extra("counting requests in a Redis", {"limits": "limits", "redis": "redis"}),
    "monitoring": Extra("watching traffic", {"evidently": "evidently", "pandas": "pandas", "sklearn": "scikit-learn"}),
    "pipelines": Extra("the pipeline", {"dvc": "dvc", "prefect": "prefect"}),
    "vllm": Extra("the engine vllm", {"vllm": "vllm"}),
    "verifiers": Extra("a domain of an environment for verifiers", {"verifiers": "verifiers"}),
    "otel": Extra(
        "spans and metrics by OpenTelemetry",
        {
            "opentelemetry.sdk": "opentelemetry-sdk",
            "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
        },
    ),
    "dev": Extra("working on the code"),
}


def require(name: str) -> None:
    """Raise MissingDependency, which says how to install the extra, unless all its packages are installed."""
    extra = EXTRAS[name]
    for module, package in extra.packages.items():
        if not _there(module):
            raise MissingDependency(
                f"{extra.needed_for} needs the package {package}: pip install '{DISTRIBUTION}[{name}]'"
            )


@contextmanager
def unfound(*modules: str) -> Iterator[None]:
    """While the block runs, have packages that are not imported yet look as if they were not installed: for libraries
    that import all they find."""
    absent = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def install(name: str) -> str:
    """The command that installs an extra, `""` being none: in a checkout, at the tested versions."""
    extra = f"[{name}]" if name else ""
    return f"pip install -c constraints.txt -e '.{extra}'" if CHECKOUT else f"pip install '{DISTRIBUTION}{extra}'"
