"""What a flow shows in Prefect's pages: tables, curves as images, the gate's decision."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact


def rounds_table(name: str, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Every round so far: what it did, its reward, accuracy and KL."""
    rows = [
        {
            "round": r["round"],
            "kind": r["channel"],
            "cycle": r["cycle"],
            "RL steps": r["step"],
            "reward": f"{r['reward']:.3f}",
            "validation accuracy": "" if r["accuracy"] is None else f"{r['accuracy']:.3f}",
            "KL, nats per token": "" if r["kl"] is None else f"{r['kl']:.4f}",
            "rollouts learned from": r["rollouts"]["train"] + r["rollouts"]["fast"],
            "best prompt": r["prompt"],
        }
        for r in rounds
    ]
    create_table_artifact(rows, key=f"rounds-{key(name)}", description=f"Training on {name}, round by round")


def curve_image(name: str, run: Path) -> None:
    """The learning curve, as an image inside the artifact, which needs no file server."""
    from fst.report.build import group
    from fst.report.figures import draw_figures
    from fst.runs.view import load_run

    png = base64.b64encode(draw_figures(group([load_run(run)]))[0].png["light"]).decode()
    create_image_artifact(
        f"data:image/png;base64,{png}",
        key=f"curve-{key(name)}",
        description=f"{name}: validation accuracy and KL against rollouts",
    )


def validation_table(name: str, validation: Path) -> None:
    """Every expectation with what was found; those that do not hold come first."""
    findings = [f for suite in json.loads(validation.read_text(encoding="utf-8")) for f in suite["findings"]]
    rows = [
        {
            "expectation": finding["expectation"],
            "verdict": "holds" if finding["success"] else finding["severity"],
            "observed": finding["observed"],
        }
        for finding in sorted(findings, key=lambda finding: bool(finding["success"]))
    ]
    create_table_artifact(rows, key=f"validation-{key(name)}", description=f"Data suites on {name}")


def metrics_table(name: str, metrics: Path) -> None:
    """The evaluation's figures."""
    values = json.loads(metrics.read_text(encoding="utf-8"))
    rows = [{"figure": figure, "value": value} for figure, value in values.items() if figure != "domains"]
    rows += [{"figure": f"reward on {domain}", "value": reward} for domain, reward in values["domains"].items()]
    create_table_artifact(rows, key=f"metrics-{key(name)}", description=f"Held-out problems, after training on {name}")


def gate_decision(name: str, decision: Path) -> None:
    """The verdict, the rules with their figures, and the intervals."""
    values = json.loads(decision.read_text(encoding="utf-8"))
    production = (values["production"] or "none: compared with the untrained base")[:40]
    lines = [
        f"# {name}: {values['verdict']}",
        f"candidate `{values['candidate'][:12]}`, production `{production}`",
        "",
        "| rule | domain | verdict | |",
        "|---|---|---|---|",
        *(
            f"| {f['rule']} | {f['domain'] or 'all'} | {'pass' if f['passed'] else '**REFUSED**'} | {f['sentence']} |"
            for f in values["findings"]
        ),
    ]
    create_markdown_artifact("\n".join(lines), key=f"gate-{key(name)}", description=f"Gate: {values['verdict']}")


def key(name: str) -> str:
    """A domain's name as part of an artifact's key, where Prefect allows lower-case letters, digits and dashes."""
    return name.replace("_", "-")
