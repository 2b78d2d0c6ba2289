"""Figures for Prometheus. monitoring/README.md explains each of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one gateway, in a separate registry. The label `domain` is "" for an unknown domain."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "fst_requests", "answered requests", ["domain", "status", "variant"], registry=self.registry
        )
        self.seconds = Histogram("fst_request_seconds", "time to answer", registry=self.registry, buckets=_SECONDS)
        self.first_token = Histogram(
            "fst_first_token_seconds", "time to the first token", registry=self.registry, buckets=_SECONDS
        )
        self.tokens = Counter("fst_tokens", "tokens", ["kind"], registry=self.registry)
        self.novelty = Histogram(
            "fst_novelty", "novelty of what is asked", registry=self.registry, buckets=[i / 10 for i in range(1, 11)]
        )
        self.rewards = Histogram(
            "fst_reward", "rewards of answers", ["domain"], registry=self.registry, buckets=[i / 10 for i in range(11)]
        )
        self.in_hand = Gauge("fst_requests_in_hand", "requests being answered", registry=self.registry)
        self.restarts = Gauge("fst_engine_restarts", "times the engine was started again", registry=self.registry)
        self.swaps = Gauge("fst_release_swaps", "releases that came into force", registry=self.registry)

    def page(self) -> bytes:
        """The figures in Prometheus' text format."""
        return generate_latest(self.registry)
