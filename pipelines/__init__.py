"""Flows of the pipeline on Prefect."""

import os

from fst.telemetry import silence

silence()
# A server that a flow starts for itself makes its database first, which takes more than Prefect's 20 seconds on a busy machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
