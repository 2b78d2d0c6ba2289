"""Watching what was deployed: drift, alerts, dashboard. Reads records; depends on no trainer."""
