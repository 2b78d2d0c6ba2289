"""The folder monitoring/. M1 every metric and label that its files name is one that the gateway reports; M2 the rules
have the structure that Prometheus loads; M3 the scrape configuration loads them and names their job; M4 the README
lists every metric with its labels; M5 the folder holds neither code nor output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fst.serving.metrics import Metrics

FOLDER = Path(__file__).resolve().parents[2] / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def reported() -> dict[str, set[str]]:
    """Sample name -> labels, of a gateway that has answered, been given feedback and counted tokens."""
    metrics = Metrics()
    metrics.requests.labels("digits", "200", "production").inc()
    metrics.rewards.labels("digits").observe(1.0)
    metrics.tokens.labels("read").inc()
    return {s.name: {*s.labels} for family in metrics.registry.collect() for s in family.samples}


def expressions() -> list[str]:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return rules + shown + [note["expr"] for note in DASHBOARD["annotations"]["list"]]


@pytest.mark.parametrize("expression", expressions())
def test_m1_the_gateway_reports_what_is_asked_for(expression: str) -> None:
    samples = reported()
    names = re.findall(r"\bfst_\w+", expression)
    assert set(names) <= set(samples)
    for name, matchers in re.findall(r"(fst_\w+)\{(.*?)\}", expression):
        assert set(re.findall(r"(\w+)[=!]", matchers)) <= samples[name]
    for grouped in re.findall(r"by \((.*?)\)", expression):
        assert all(set(re.split(r",\s*", grouped)) <= samples[name] for name in names)
    assert expression.count("(") == expression.count(")")


def test_m1_each_metric_is_watched_or_shown() -> None:
    asked = set(re.findall(r"\bfst_\w+", " ".join(expressions())))
    families = {family.name for family in Metrics().registry.collect()}
    assert {family for family in families if not any(name.startswith(family) for name in asked)} == set()


def test_m2_the_rules_are_prometheus_rules() -> None:
    assert set(RULES) == {"groups"}
    names = []
    for group in RULES["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= set(rule) <= {
                "alert", "expr", "for", "labels", "annotations",
            }  # fmt: skip
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"]
            assert re.search(r"[<>]=? |== 0", rule["expr"]), "without a comparison an alert would always fire"
            names.append(rule["alert"])
    assert len(names) == len(set(names)) == 7


def test_m3_prometheus_finds_the_rules_and_their_job() -> None:
    values: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert all((FOLDER / file).is_file() for file in values["rule_files"])
    jobs = {scrape["job_name"] for scrape in values["scrape_configs"]}
    assert set(re.findall(r'job="(\w+)"', " ".join(expressions()))) == jobs


def test_m4_the_readme_lists_every_metric() -> None:
    rows = re.findall(r"^\| `(fst_\w+)` \| (.*?) ?\|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    samples = reported()
    families = {family.name: family.type for family in Metrics().registry.collect()}
    suffix = {"counter": "_total", "histogram": "_count", "gauge": ""}
    shown = {name + (suffix[kind] if kind == "counter" else ""): name + suffix[kind] for name, kind in families.items()}
    assert listed == {name: samples[sample] for name, sample in shown.items()}


def test_m5_no_code_and_no_output() -> None:
    assert {path.name for path in FOLDER.rglob("*")} == {"README.md", "dashboard.json", "prometheus.yml", "rules.yml"}
