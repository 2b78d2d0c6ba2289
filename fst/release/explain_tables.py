"""Formats where a bundle comes from for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from fst.release.explain import Ancestor, Explanation
from fst.release.tables import decision_page, facts_table, figure, short, text
from fst.release.views import flat

_ELSEWHERE = ("domains", "store", "flows")  # sections that are shown elsewhere, or are irrelevant to the bundle


def explain_page(found: Explanation) -> RenderableType:
    """Format everything except the commands, which must not be wrapped."""
    parts: list[RenderableType] = [facts_table(found.facts)]
    if found.data:
        parts.append(_data(found))
    if found.tenants:
        parts.append(_tenants(found))
    parts += [_params(found), _chain(found)]
    parts += [_ancestry(domain, prompts) for domain, prompts in found.ancestry.items()]
    parts.append(decision_page(found.gate) if found.gate else text("No gate has judged it: it is a candidate."))
    return Group(*(piece for part in parts for piece in (part, Text())))


def _data(found: Explanation) -> Table:
    table = Table(title="data", title_justify="left", title_style="bold")
    for name in ("domain", "spec", "sha256 of all its problems"):
        table.add_column(name, overflow="fold")
    for domain, spec, sha256 in found.data:
        table.add_row(text(domain), text(spec), text(sha256))
    return table


def _tenants(found: Explanation) -> Table:
    table = Table(title="whose feedback the problems were made of", title_justify="left", title_style="bold")
    for name in ("domain", "tenant", "problems"):
        table.add_column(name, overflow="fold")
    for domain, tenant, problems in found.tenants:
        table.add_row(text(domain), text(tenant), text(str(problems)))
    return table


def _params(found: Explanation) -> RenderableType:
    sections = {k: v for k, v in found.params.items() if k not in _ELSEWHERE}
    table = Table.grid(padding=(0, 2))
    for name, values in sections.items():
        table.add_row(text(name), text(", ".join(f"{key} {figure(value)}" for key, value in flat(values).items())))
    return Group(text("parameters", "bold"), table)


def _chain(found: Explanation) -> Tree:
    tree = at = Tree(text(f"builds on, from {short(found.id)} back:", "bold"))
    for link in found.chain:
        release = f", released as {short(link.release)}" if link.release else ""
        at = at.add(text(f"{short(link.candidate)}  {link.says}{release}"))
    if not found.chain:
        tree.add(text("nothing"))
    return tree


def _ancestry(domain: str, prompts: tuple[Ancestor, ...]) -> Tree:
    tree = Tree(text(f"prompts of {domain}, best first, each with those it was made from:", "bold"))
    for prompt in prompts:
        _grow(tree, prompt)
    return tree


def _grow(tree: Tree, prompt: Ancestor) -> None:
    label = text(prompt.id, "cyan")
    if prompt.text is None:
        label.append("  not in the bundle", "dim")
    else:
        label.append_text(text(f"  {prompt.origin}, round {prompt.born}  ", "dim")).append_text(text(prompt.text))
    if prompt.repeated:
        label.append("  (its parents: see above)", "dim")
    branch = tree.add(label)
    for parent in prompt.parents:
        _grow(branch, parent)
