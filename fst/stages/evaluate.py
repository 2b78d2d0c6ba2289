"""The stage `evaluate`: what would be served after training, measured on held-out problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fst.data.scored_by import verifier_facts
from fst.data.types import TENANTS, Domain
from fst.files import document, replacing, write_atomic
from fst.runs.origin import data_sha256
from fst.stages.measure import Served
from fst.stages.outputs import adapter, problems, read_document, start
from fst.stages.workspace import Workspace
from fst.types import prompt_from_dict


def evaluate(workspace: Workspace, name: str) -> Path:
    """Write models/evaluated/<name> and reports/metrics/<name>.json; return the folder.

    The trained policy answers the test problems of its own domain under every prompt of the population, and those of
    every domain that it builds on under the prompt that is served there. Of each domain the folder also holds answers
    to validation problems, with which live traffic is compared.
    """
    places, builds_on, own = workspace.places, start(workspace, name), workspace.params.served_as(name)
    population = read_document(places.trained(name) / "prompts.json", f"fst stage train {name}")
    prompts = list(map(prompt_from_dict, population["prompts"]))
    served, domain = Served.load(workspace.of(name), adapter(workspace, name)), problems(workspace, name)
    found = {prompt.id: served.measure(domain, prompt) for prompt in prompts}
    entries = {own: {**served.entry(prompts[0], found[prompts[0].id], data_sha256(domain)), **_scored(domain)}}
    traffic = {own: {"rows": served.traffic(domain, prompts[0])}}
    for earlier, facts in builds_on.manifest["domains"].items():
        if earlier != own:
            held_out = problems(workspace, facts.get("stage", earlier), facts["data_sha256"])
            kept = prompt_from_dict(builds_on.prompts()[earlier]["prompts"][0])
            entry = served.entry(kept, served.measure(held_out, kept), facts["data_sha256"])
            entries[earlier] = {**entry, **_scored(held_out)}
            traffic[earlier] = {"rows": served.traffic(held_out, kept)}
    with replacing(places.evaluated(name)) as folder:
        scores = {key: evaluation.problems for key, evaluation in found.items()}
        (folder / "evaluation.json").write_text(document(entries), encoding="utf-8")
        (folder / "scores.json").write_text(document(scores), encoding="utf-8")
        (folder / "reference.json").write_text(document(traffic), encoding="utf-8")
    places.metrics(name).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(places.metrics(name), document(_metrics(own, entries, builds_on.evaluation())))
    return places.evaluated(name)


def _scored(domain: Domain) -> dict[str, Any]:
    """What an entry says of the domain's verifier, where its spec does not say it, and of whose feedback its problems
    were made: by tenant's mark, how many of all problems, and which of the held-out ones."""
    facts, tenants = verifier_facts(domain), dict[str, dict[str, Any]]()
    held_out = {problem.id for problem in domain.test}
    for problem in domain.problems:
        for tenant in problem.meta.get(TENANTS, ()):
            mine = tenants.setdefault(tenant, {"problems": 0, "held_out": []})
            mine["problems"] += 1
            mine["held_out"] += [problem.id] if problem.id in held_out else []
    return {**({"verifier": facts} if facts else {}), **({TENANTS: tenants} if tenants else {})}


def _metrics(own: str, entries: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The domain's figures, the most that an earlier domain lost, and the reward of each."""
    lost = [before[d]["reward"] - entries[d]["reward"] for d in entries if d in before and d != own]
    return {
        **{key: entries[own][key] for key in ("reward", "stderr", "kl", "tokens_per_answer", "prompt_tokens")},
        "forgetting": round(max(lost, default=0.0), 6),
        "domains": {domain: entry["reward"] for domain, entry in entries.items()},
    }
