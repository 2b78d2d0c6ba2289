"""The folder monitoring/. M1 every query is PromQL, and every metric and label in it is one that the gateway's /metrics
has; M2 the rules have the structure that Prometheus loads; M3 the scrape configurations load them and name their job;
M4 the README lists every metric with its labels; M5 the folder holds neither code nor output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fst.serving.metrics import Metrics

FOLDER = Path(__file__).resolve().parents[2] / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def page() -> str:
    """The text that /metrics answers, of a gateway that has answered, been given feedback and counted tokens."""
    metrics = Metrics()
    metrics.requests.labels("digits", "200", "production").inc()
    metrics.rewards.labels("digits").observe(1.0)
    metrics.tokens.labels("read").inc()
    return metrics.page().decode()


def reported() -> dict[str, set[str]]:
    """Sample name -> labels, as Prometheus reads them there."""
    return {s.name: {*s.labels} for family in text_string_to_metric_families(page()) for s in family.samples}


def expressions() -> list[str]:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return rules + shown + [note["expr"] for note in DASHBOARD["annotations"]["list"]]


def asked(expression: str) -> dict[str, set[str]]:
    """Metric -> the labels that a query selects it or groups it by. Raises ValueError for what is no PromQL."""
    found: dict[str, set[str]] = {}

    def look(node: promql.Expr, grouped: frozenset[str] = frozenset()) -> None:
        node = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
        if isinstance(node, promql.VectorSelector):
            found.setdefault(node.name, set()).update(grouped, (m.name for m in node.matchers.matchers))
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            grouped = grouped | set(node.modifier.labels)
        for inner in (getattr(node, key, None) for key in ("expr", "lhs", "rhs")):
            if inner is not None:
                look(inner, grouped)
        for inner in getattr(node, "args", None) or ():
            look(inner, grouped)

    look(promql.parse(expression.replace("$__rate_interval", "5m")))
    return found


@pytest.mark.parametrize("expression", expressions())
def test_m1_the_gateway_reports_what_is_asked_for(expression: str) -> None:
    samples = {"up": {"job", "instance"}, **reported()}
    found = asked(expression)
    assert found
    assert {name: labels - samples[name] for name, labels in found.items()} == {name: set() for name in found}


def test_m1_a_query_with_a_mistake_would_be_noticed() -> None:
    assert asked('sum by (le) (rate(x_bucket{job="a"}[5m])) > 1') == {"x_bucket": {"le", "job"}}
    for broken in ("sum(rate(x[5m])", "rate(x[5 minutes])", "x >> 2", "sum by le (x)"):
        with pytest.raises(ValueError):  # noqa: PT011 - the parser's own words
            promql.parse(broken)


def test_m1_each_metric_is_watched_or_shown() -> None:
    named = {name for expression in expressions() for name in asked(expression)}
    families = {family.name for family in Metrics().registry.collect()}
    assert {family for family in families if not any(name.startswith(family) for name in named)} == set()


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


@pytest.mark.parametrize("file", ["prometheus.yml", "compose.yml"])
def test_m3_prometheus_finds_the_rules_and_their_job(file: str) -> None:
    values: dict[str, Any] = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))
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
    assert {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()} == {
        "README.md", "dashboard.json", "prometheus.yml", "rules.yml", "compose.yml",
        "grafana/datasources/prometheus.yml", "grafana/dashboards/fst.yml",
    }  # fmt: skip
