"""Formats bundles for the terminal. A bundle's content is shown as plain text and cannot send control codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fst.data.validation.page import visible
from fst.release.views import FIGURES, Change, Comparison, Listed, Pair, Shown, trained

SHORT = 12  # digits of an id that are shown
_NAMES = {"reward": "reward", "stderr": "±", "kl": "KL, nats a token", "tokens_per_answer": "tokens an answer"}


def text(value: Any, style: str = "") -> Text:
    """Show a value literally, with its own line breaks and visible control characters."""
    return Text("\n".join(map(visible, str(value).split("\n"))), style)


def short(bundle_id: str | None) -> str:
    return bundle_id[:SHORT] if bundle_id else "-"


def figure(value: Any) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else "-" if value is None else str(value)


def list_table(listed: Sequence[Listed]) -> RenderableType:
    """List the bundles of a store, one row each."""
    if not listed:
        return text("The store has no bundles yet; `fst release NAME` publishes one.")
    table = _table("bundle", "since (UTC)", "trained", "reward on", "channel")
    for one in listed:
        since = datetime.fromisoformat(one.at).strftime("%Y-%m-%d %H:%M")
        rewards = "\n".join(f"{domain} {reward:.3f}" for domain, reward in one.rewards.items())
        table.add_row(short(one.id), since, text(one.trained), text(rewards), text(", ".join(one.channels), "bold"))
    return table


def show_page(shown: Shown) -> RenderableType:
    """Show one bundle in full."""
    manifest = shown.manifest
    facts = {
        "bundle": shown.id,
        "channel": ", ".join(shown.channels) or "none points at it",
        "trained": trained(manifest.get("run")),
        "base": f"{manifest['base']['name']}, sha256 {manifest['base']['sha256']}",
        "builds on": short(manifest.get("start")),
        "files": ", ".join(f"{path} ({facts['bytes']:,} bytes)" for path, facts in manifest["files"].items()),
        **_needs(manifest),
    }
    parts: list[RenderableType] = [facts_table(facts.items()), _served(manifest)]
    for domain, entry in shown.prompts.items():
        parts.append(_prompts(domain, entry["prompts"]))
    return Group(*_spaced([*parts, *([decision_page(shown.gate)] if shown.gate else [])]))


def decision_page(gate: Mapping[str, Any]) -> RenderableType:
    """Show the gate's decision: each rule with its figure, and each domain's interval."""
    against = short(gate["production"]) if gate["production"] else "the untrained base"
    title = f"gate: {gate['verdict']} (candidate {short(gate['candidate'])} against {against})"
    table = _table("rule", "domain", "verdict", "value", "limit", "", title=title)
    for finding in gate["findings"]:
        verdict = Text("pass", "green") if finding["passed"] else Text("REFUSED", "bold red")
        figures = (figure(finding["value"]), figure(finding["limit"]))
        table.add_row(finding["rule"], text(finding["domain"] or "all"), verdict, *figures, text(finding["sentence"]))
    confidence = gate["limits"]["confidence"]
    differences = _table("domain", "reward, candidate minus production", f"interval at {confidence:.0%}")
    for domain, interval in gate["intervals"].items():
        bounds = f"[{interval['low']:+.4f}, {interval['high']:+.4f}]"
        differences.add_row(text(domain or "all"), f"{interval['mean']:+.4f}", bounds)
    return Group(table, differences)


def diff_page(found: Comparison) -> RenderableType:
    """Show two bundles side by side."""
    names = (short(found.first), short(found.second))
    return Group(
        *_spaced([_pairs(found.prompts, names), _figures(found.figures, names), _made(found.made_with, names)])
    )


def facts_table(facts: Iterable[tuple[str, Any]]) -> Table:
    """Make a table of names and values without borders."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, text(value))
    return table


def _needs(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The code files that are needed to score answers when serving or training further; bundles contain no code."""
    named = [facts.get("verifier", {}) for facts in manifest.get("domains", {}).values()]
    code = [f"{one['name']}, sha256 {one['sha256']}" for one in named if "sha256" in one]
    return {"needs": ", ".join(code)} if code else {}


def _served(manifest: Mapping[str, Any]) -> Table:
    table = _table("domain", "spec", *_NAMES.values(), title="what it serves, on held-out problems")
    for domain, facts in manifest.get("domains", {}).items():
        metrics = manifest["metrics"].get(domain, {})
        table.add_row(text(domain), text(facts["spec"]), *(figure(metrics.get(name)) for name in FIGURES))
    return table


def _prompts(domain: str, prompts: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("rank", "id", "origin", "score", "text", title=f"prompts of {visible(domain)}, best first")
    for rank, prompt in enumerate(prompts, 1):
        table.add_row(
            str(rank), text(prompt["id"]), text(prompt["origin"]), figure(prompt.get("score")), text(prompt["text"])
        )
    return table


def _pairs(pairs: Sequence[Pair], names: Sequence[str]) -> Table:
    table = Table(title="prompts, best first", title_justify="left", show_lines=True)
    table.add_column("domain")
    table.add_column("", justify="right")
    for name in names:
        table.add_column(name, ratio=1, overflow="fold")
    for pair in pairs:
        sides = (_prompt(pair.first), text("the same", "dim") if pair.same else _prompt(pair.second))
        table.add_row(text(pair.domain), str(pair.rank), *sides)
    return table


def _prompt(side: tuple[str, float | None, str] | None) -> Text:
    if side is None:
        return text("none", "dim")
    score = "" if side[1] is None else f", score {figure(side[1])}"
    return text(side[0]).append(f"\n{visible(side[2])}{score}", "dim")


def _figures(figures: Sequence[Change], names: Sequence[str]) -> Table:
    table = _table("domain", "figure", *names, "difference", title="held-out problems")
    for change in figures:
        domain, _, name = change.path.rpartition(".")
        known = change.first is not None and change.second is not None
        difference = f"{change.second - change.first:+.4f}" if known else "-"
        values = (figure(change.first), figure(change.second))
        table.add_row(text(domain), _NAMES[name], *values, difference)
    return table


def _made(made: Sequence[Change], names: Sequence[str]) -> RenderableType:
    if not made:
        return text("made with the same parameters, versions and base")
    table = _table("made with", *names)
    for change in made:
        table.add_row(text(change.path), text(_said(change.first)), text(_said(change.second)))
    return table


def _said(value: Any) -> str:
    return "-" if value is None else str(value)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _spaced(parts: Iterable[RenderableType]) -> Iterable[RenderableType]:
    for number, part in enumerate(parts):
        yield from ((Text(),) if number else ())
        yield part
