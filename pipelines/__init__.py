"""Prefect flows that run the same stages as the command line, on schedules and events."""
