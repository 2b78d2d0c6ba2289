"""Flows of the pipeline on Prefect."""

import os

from fst.spans import start
from fst.telemetry import silence

silence()
start("fst-pipelines")  # also in the child process of a flow, which imports this package
# A server that a flow starts for itself makes its database first. On a busy machine Prefect's 20 seconds do not do.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
# The least that Prefect takes: pipelines/crashed.py has runs that send no more heartbeats called crashed.
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
# A server that is started again frees what killed runs held only if it still knows until when they held it.
os.environ.setdefault("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", "prefect.server.concurrency.lease_storage.filesystem")
