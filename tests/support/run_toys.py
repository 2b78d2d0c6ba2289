"""Run folders written by hand: every number in them was worked out on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fst.types import prompt_id

DOMAIN = "lab/sort_desc+add_one"
SEED, GOOD, EVIL = "Answer.", "Answer.\nSort first.", "Answer.\n<script>alert(1)</script>"


def write_run(root: Path, arm: str, seed: int, events: list[dict[str, Any]], **config: Any) -> Path:
    folder = root / f"{arm}-{seed}-{config.get('domain', DOMAIN).replace('/', '-')}"
    folder.mkdir(parents=True)
    settings = {
        "run": folder.name,
        "arm": arm,
        "domain": DOMAIN,
        "seed": seed,
        "params": {"slow": {"steps": 12}},
        "commit": "abc123",
        "versions": {"torch": "2.13.0"},
        "created": "2026-07-01T00:00:00",
    } | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def spent(train: int, fast: int = 0, evals: int = 0) -> dict[str, int]:
    return {"train": train, "fast": fast, "eval": evals}


def prompt(text: str, round_: int, score: float, *parents: str, feedback: str = "") -> dict[str, Any]:
    return {
        "kind": "prompt",
        "round": round_,
        "id": prompt_id(text),
        "text": text,
        "parents": [prompt_id(parent) for parent in parents],
        "origin": "reflection" if parents else "seed",
        "score": score,
        "reflection": {"feedback": feedback, "proposals": 1, "screened": 0, "seconds": 1.0} if parents else None,
    }


def evaluation(round_: int, step: int, accuracy: float, kl: float, rollouts: dict[str, int]) -> dict[str, Any]:
    return {
        "kind": "evaluation",
        "round": round_,
        "step": step,
        "split": "validation",
        "accuracy": accuracy,
        "stderr": 0.01,
        "kl": kl,
        "prompt": prompt_id(SEED),
        "rollouts": rollouts,
        "seconds": 10.0 * (round_ + 1),
    }


def step(round_: int, number: int, reward: float) -> dict[str, Any]:
    return {"kind": "step", "round": round_, "step": number, "reward": reward, "groups": 4, "kept_groups": 2}


def round_(at: int, channel: str, population: list[str], rollouts: dict[str, int]) -> dict[str, Any]:
    return {
        "kind": "round",
        "round": at,
        "channel": channel,
        "cycle": at // 2,
        "step": 1,
        "seconds": 9.0,
        "reward": 0.5,
        "population": [prompt_id(text) for text in population],
        "scores": {},
        "rollouts": rollouts,
        "screening": None,
    }


def end(round_: int, accuracy: float, kl: float, rollouts: dict[str, int], prompts: list[str]) -> dict[str, Any]:
    return {
        "kind": "end",
        "round": round_,
        "accuracy": accuracy,
        "stderr": 0.03,
        "kl": kl,
        "rollouts": rollouts,
        "seconds": 100.0,
        "adapter_sha256": "0" * 64,
        "prompts": prompts,
    }


def fst_events(accuracy: float) -> list[dict[str, Any]]:
    """Two rounds; the process died in round 1 and began it again. Only the second telling counts."""
    return [
        evaluation(-1, 0, 0.1, 0.0, spent(0, 0, 10)),
        prompt(SEED, 0, 0.1),
        prompt(GOOD, 0, 0.6, SEED, feedback="expected <b>10 5 3</b>"),
        round_(0, "fast", [GOOD, SEED], spent(0, 100, 10)),
        step(1, 1, 0.99),
        prompt("never happened", 1, 0.99, SEED),
        evaluation(1, 1, 0.99, 0.9, spent(999, 999, 999)),
        {"kind": "resume", "round": 1},
        step(1, 1, 0.4),
        step(1, 2, 0.6),
        prompt(EVIL, 1, 0.7, GOOD, SEED),
        round_(1, "slow", [EVIL, GOOD], spent(50, 100, 20)),
        evaluation(1, 2, 0.5, 0.02, spent(50, 100, 20)),
        {
            "kind": "cells",
            "cells": {"base/seed": 0.1, "base/evolved": 0.3, "trained/seed": 0.4, "trained/evolved": accuracy},
            "n": 8,
            "round": 1,
        },
        end(1, accuracy, 0.02, spent(50, 100, 30), [EVIL, GOOD]),
    ]


def rl_events() -> list[dict[str, Any]]:
    return [
        evaluation(-1, 0, 0.1, 0.0, spent(0, 0, 10)),
        prompt(SEED, 0, 0.1),
        step(0, 1, 0.2),
        round_(0, "slow", [SEED], spent(200, 0, 10)),
        evaluation(0, 1, 0.3, 0.05, spent(200, 0, 20)),
        step(1, 2, 0.3),
        evaluation(1, 2, 0.4, 0.08, spent(600, 0, 30)),
        end(1, 0.42, 0.08, spent(600, 0, 40), [SEED]),
    ]


def gepa_events() -> list[dict[str, Any]]:
    """Never finished: no end event, and the last line was cut short by the crash."""
    return [
        evaluation(-1, 0, 0.1, 0.0, spent(0, 0, 10)),
        prompt(SEED, 0, 0.1),
        round_(0, "fast", [SEED], spent(0, 80, 10)),
        evaluation(0, 0, 0.25, 0.0, spent(0, 80, 20)),
    ]
