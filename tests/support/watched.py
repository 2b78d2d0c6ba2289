"""A traffic log, a bundle that is served, and watchers over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fst.config import DriftParams
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.monitoring.watcher import Watcher
from fst.store.bundle import Bundle, write_bundle
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog

PARAMS = DriftParams(resamples=200, cool_down_seconds=1000.0)
SERVED = {"digits": "lab/sort_desc+add_one"}


class Scene:
    """A log with traffic, a bundle that is served, and watchers over them."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "monitoring"
        problems = load_domain(SERVED["digits"], SplitSizes(600, 100, 1), 0)
        self.questions = [p.question for p in problems.train]
        rows = [{"question": p.question, "response": p.answer, "reward": 1.0, "tokens": 6} for p in problems.validation]
        manifest = {"schema": 1, "base": {}, "start": None, "domains": {"digits": {}}, "run": None, "metrics": {}}
        manifest |= {"candidate": None, "gate": None}
        documents = {"prompts.json": {}, "evaluation.json": {}, "reference.json": {"digits": {"rows": rows}}}
        self.bundle: Bundle | None = write_bundle(root / "bundle", manifest, documents, None)
        self.log = TrafficLog(root / "traffic", LogLimits())
        self.count = 0

    def watcher(self) -> Watcher:
        params = PARAMS.replace(window=40, min_scored=10)
        return Watcher(self.root / "traffic", self.folder, "prod", params, lambda: self.bundle)

    def send(
        self, count: int, domain: str = "digits", text: str = "", reward: float = 1.0, answer: str | None = None
    ) -> None:
        for _ in range(count):
            self.count += 1
            question = text.format(self.count) if text else self.questions[self.count % len(self.questions)]
            routed, novelty = ("router", 0.25) if domain else ("unknown", 0.95)
            facts = (
                novelty,
                self.bundle.id if self.bundle else "",
                "production",
                "p",
                question,
                "a",
                (9, 6),
                0.1,
                "stop",
                200,
            )
            self.log.append(Request(f"i{self.count}", float(self.count), "t", domain, routed, *facts))  # type: ignore[arg-type]
            self.log.append(Feedback(f"i{self.count}", float(self.count), "t", reward, answer, "", "client"))

    def windows(self) -> list[dict[str, Any]]:
        path = self.folder / "windows.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
