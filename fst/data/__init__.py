"""Domains, verifiers and the problems they deal."""
