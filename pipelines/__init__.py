"""Flows of the pipeline on Prefect."""

from fst.telemetry import silence

silence()
