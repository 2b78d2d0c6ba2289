"""The stage `bundle`: what is released, the adapter with the prompts of this domain and of those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fst.data.types import TENANTS
from fst.stages.outputs import adapter, read_document, start
from fst.stages.packing import Contents, pack
from fst.stages.workspace import Workspace


def bundle(workspace: Workspace, name: str) -> Path:
    """Write models/bundles/<name> and return the folder."""
    places, params, builds_on = workspace.places, workspace.of(name), start(workspace, name)
    training, own = (
        read_document(places.trained(name) / f"{part}.json", f"fst stage train {name}")
        for part in ("training", "prompts")
    )
    entries, scores, reference = (
        read_document(places.evaluated(name) / f"{part}.json", f"fst stage evaluate {name}")
        for part in ("evaluation", "scores", "reference")
    )
    served_as = workspace.params.served_as(name)
    shipped = [{**p, "problems": scores[p["id"]]} for p in own["prompts"][: params.bundle.prompts]]
    prompts = {**builds_on.prompts(), served_as: {"prompts": shipped, "ancestry": own["ancestry"]}}
    origins = {
        **{d: (facts["spec"], facts.get("stage", d)) for d, facts in builds_on.manifest["domains"].items()},
        served_as: (workspace.params.domain(name).full_spec, name),
    }
    facts = {
        "domains": {domain: _origin(*origin, entries[domain]) for domain, origin in origins.items()},
        "run": {"domain": name, **{k: v for k, v in training.items() if k not in ("cells", "adapter_sha256")}},
        "metrics": {
            domain: {key: entry[key] for key in ("reward", "stderr", "kl", "tokens_per_answer")}
            for domain, entry in entries.items()
        },
    }
    documents = {"prompts.json": prompts, "evaluation.json": entries, "reference.json": reference}
    contents = Contents(facts, documents, adapter(workspace, name), builds_on.id)
    return pack(params, places.bundled(name), contents)


def _origin(spec: str, stage: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A domain's entry in the manifest: where its problems and its served prompt come from, and what scores answers
    where the spec does not say it; and how many of the problems were made of which tenant's feedback."""
    scored = {"verifier": entry["verifier"]} if "verifier" in entry else {}
    if TENANTS in entry:
        scored[TENANTS] = {tenant: found["problems"] for tenant, found in entry[TENANTS].items()}
    return {"spec": spec, "stage": stage, "data_sha256": entry["data_sha256"], "prompt": entry["prompt"], **scored}
