"""Watching live traffic: drift, new domains, alerts, reports, the page for people. Imports no trainer."""
