"""Nothing of what this project uses may report home. Set before any library is imported; a user may set otherwise."""

from __future__ import annotations

import os

OFF = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "false",
}


def silence() -> None:
    """Switch telemetry off in this process and in those it starts."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
