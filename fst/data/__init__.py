"""Domains, their problems, and the verifiers that score answers to them."""
