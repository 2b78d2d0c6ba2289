"""Watches live traffic: drift, new domains, alerts, reports, the dashboard page. Imports no trainer."""
