"""Adaptations. A1 two domains are added, the fast one on production's stage, the slow one on the fast, both serving
under the domain's name; A2 their splits are disjoint shares of all problems; A3 nothing of the project's own domains
changes; A4 what is built on is the candidate that production was made of, byte for byte, whatever its stage has made
since, with production's parameters and the problems that it was measured on; A5 too few problems, no release: errors
that say what to do; A6 an adaptation of an adaptation keeps the first one's domains; A7 its stages serve the domain
under its name, carry its prompts on, leave the weights as they are, and record the tenants whose feedback the problems
were made of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst.config import Params, params_from_dict
from fst.data.domains import load_domain
from fst.data.types import SplitSizes
from fst.errors import ConfigError, DataError
from fst.files import file_sha256
from fst.release.adaptation import Adaptation, plan, production_of
from fst.runs.origin import data_sha256
from fst.runs.view import load_run
from fst.stages.outputs import candidate, problems, start
from fst.stages.prepare import prepare
from fst.stages.train import job_of
from fst.stages.workspace import Workspace
from fst.store.bundle import Bundle, write_bundle
from fst.traffic.trust import mark
from support.release_toys import PARAMS, ToyProject
from support.stages import run_stages

PAIRS = [(f"question {i}", f"answer {i}") for i in range(60)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    monkeypatch.chdir(tmp_path)
    return ToyProject(
        tmp_path, PARAMS + "adapt: {min_problems: 50, max_problems: 80, fast_cycles: 3, slow_cycles: 5}\n"
    )


def released(project: ToyProject) -> Bundle:
    return project.release(project.candidate("zeta", project.base(), 0.9))


def test_a1_a2_a3_two_domains_are_added_and_nothing_else_changes(project: ToyProject) -> None:
    production = released(project)
    found = plan(project.params, project.places, "letters", PAIRS, "prod")
    assert (found.domain, found.start, found.problems, found.channel) == ("letters", "zeta", 60, "prod")
    assert (project.root / found.data).read_text().count("\n") == 60
    params = found.params(project.params, production)
    fast, slow = params.domain(found.fast), params.domain(found.slow)
    assert (fast.start, slow.start) == ("zeta", found.fast)
    assert (params.served_as(found.fast), params.served_as(found.slow)) == ("letters", "letters")
    of_fast, of_slow = params.of_domain(found.fast), params.of_domain(found.slow)
    assert (of_fast.train.arm, of_fast.loop.cycles) == ("gepa", 3)
    assert (of_slow.train.arm, of_slow.loop.cycles) == ("fst", 5)
    sizes = of_fast.prepare
    assert (sizes.train, sizes.validation, sizes.test) == (26, 16, 18)
    domain = load_domain(fast.spec, SplitSizes(sizes.train, sizes.validation, sizes.test), 0)
    assert (len(domain.train), len(domain.validation), len(domain.test)) == (26, 16, 18)
    for name in ("zeta", "alpha"):
        assert params.domain(name) == project.params.domain(name)
        assert params.of_domain(name) == params
    assert params.replace(domains={}) == project.params.replace(domains={})


@given(st.integers(50, 2000))
@settings(max_examples=30)
def test_a2_every_size_gives_three_splits_of_all_problems(problems: int) -> None:
    adaptation = Adaptation("letters", "data/traffic/letters-1.jsonl", problems, "base", "prod")
    params = params_from_dict({"domains": adaptation.domains(Params())})
    sizes = params.of_domain("letters-1").prepare
    assert sizes.train + sizes.validation + sizes.test == problems
    assert min(sizes.train, sizes.validation, sizes.test) >= 16


@pytest.mark.parametrize("since", ["nothing", "another", "gone"])
def test_a4_production_is_built_on_as_it_was_published(project: ToyProject, since: str) -> None:
    made = project.candidate("zeta", project.base(), 0.9)
    production = project.release(made)
    tree = project.places.bundled("zeta")
    if since == "another":
        project.candidate("zeta", project.base(), 0.8)
    elif since == "gone":
        shutil.rmtree(tree)
    before = file_sha256(tree / "manifest.json") if tree.exists() else None
    found = plan(project.params, project.places, "letters", PAIRS, "prod")
    assert (found.start, found.production) == ("zeta", production.id)
    workspace = found.workspace(project.params, project.places, production)
    assert start(workspace, found.fast).id == made.id
    assert workspace.bundled("zeta") == project.places.fetched(made.id)
    assert workspace.bundled(found.fast) == project.places.bundled(found.fast), "its own stages are the tree's"
    assert (file_sha256(tree / "manifest.json") if tree.exists() else None) == before, "the tree stays as it was"


def test_a4_the_parameters_are_those_of_production(project: ToyProject) -> None:
    """After an experiment that was taken back, params.yaml still has its values."""
    production = released(project)
    text = PARAMS.replace("cycles: 3", "cycles: 9").replace("zeta: {spec: lab/reverse", "zeta: {spec: lab/sort_asc")
    more = "slow: {lora_rank: 4}\nmodel: {max_new_tokens: 99, cache_gb: 2}\ntrain: {seed: 3}\n"
    later = "adapt: {min_problems: 50, slow_cycles: 5, enough: 0.25}\n"
    project.places.params.write_text(text.replace("resamples: 200", "resamples: 300") + more + later)
    found = plan(project.params, project.places, "letters", PAIRS, "prod")
    params = found.params(project.params, production)
    assert (params.slow.lora_rank, params.model.max_new_tokens, params.train.seed, params.loop.cycles) == (16, 16, 0, 3)
    assert params.domain("zeta").spec == "lab/reverse"
    assert (params.model.cache_gb, params.gate.resamples, params.adapt.enough) == (2, 300, 0.25), "today's"


def test_a4_the_problems_are_those_that_production_was_measured_on(project: ToyProject) -> None:
    small = PARAMS + "prepare: {train: 16, validation: 16, test: 16}\nadapt: {min_problems: 50}\n"
    project.places.params.write_text(small)
    workspace = Workspace(project.params, project.places)
    prepare(workspace, "zeta")
    measured = data_sha256(problems(workspace, "zeta"))
    made = project.candidate("zeta", project.base(), 0.9)
    facts = {k: v for k, v in made.manifest.items() if k != "files"}
    facts["domains"] = {"zeta": {**made.manifest["domains"]["zeta"], "stage": "zeta", "data_sha256": measured}}
    documents = {"prompts.json": made.prompts(), "evaluation.json": made.evaluation()}
    production = project.release(write_bundle(made.folder, facts, documents, made.adapter))
    project.places.params.write_text(small.replace("{train: 16", "{seed: 7, train: 16"))
    prepare(Workspace(project.params, project.places), "zeta")
    later = data_sha256(problems(workspace, "zeta"))
    assert later != measured
    found = plan(project.params, project.places, "letters", PAIRS, "prod")
    adapted = found.workspace(project.params, project.places, production)
    assert data_sha256(problems(adapted, "zeta", measured)) == measured
    assert data_sha256(problems(workspace, "zeta")) == later, "the project's own stay as they are"


def test_a5_what_is_missing_is_said(project: ToyProject) -> None:
    with pytest.raises(ConfigError, match="'prod' has no release to adapt"):
        plan(project.params, project.places, "letters", PAIRS, "prod")
    released(project)
    with pytest.raises(
        DataError, match=r"49 questions with one right answer in the traffic, adapt.min_problems asks for 50"
    ):
        plan(project.params, project.places, "letters", PAIRS[:49], "prod")
    assert not (project.root / "data").exists(), "nothing is left behind"


def test_a6_an_adaptation_of_an_adaptation_knows_the_first(
    project: ToyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    production, own = released(project), project.params
    first = plan(own, project.places, "letters", PAIRS, "prod")
    with_first = first.params(own, production)
    with monkeypatch.context() as adapted:
        adapted.setattr(ToyProject, "params", with_first)
        built_on = start(first.workspace(own, project.places, production), first.fast)
        project.release(project.candidate(first.fast, built_on, 0.95), production)
    second = plan(own, project.places, "greek", PAIRS[:55], "prod")
    assert second.start == first.fast
    params = second.params(own, production_of(own, project.places, "prod"))
    assert list(params.domains)[:3] == ["zeta", "alpha", first.fast]
    assert set(params.domains) == {"zeta", "alpha", first.fast, second.fast, first.slow, second.slow}
    assert params.domain(first.fast) == with_first.domain(first.fast)


SMALL: dict[str, Any] = {
    "prepare": {"train": 32, "validation": 16, "test": 16},
    "slow": {"problems_per_step": 2, "group_size": 4, "lora_rank": 4, "warmup_steps": 0},
    "fast": {"prompts": 2, "anchors": 4, "minibatch": 2, "budget": 16},
    "reflector": {"proposals": 4, "max_new_tokens": 8},
    "loop": {"cycles": 1, "steps_per_cycle": 1},
    "evaluate": {"samples": 1, "kl_problems": 4},
    "model": {"base": "lab", "max_new_tokens": 8, "threads": 1},
}


@pytest.mark.slow
def test_a7_the_stages_of_an_adaptation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain is trained, then adapted on newer problems with another rule, as drift would have it."""
    monkeypatch.chdir(tmp_path)
    project = ToyProject(tmp_path, "domains:\n  first: {spec: lab/reverse, start: base}\nstore: {url: store}\n")
    values = {**project.params.as_dict(), **SMALL}
    params = params_from_dict(values)
    workspace = Workspace(params, project.places)
    run_stages(workspace, "first")
    before = candidate(workspace, "first")
    assert before.manifest["domains"]["first"]["stage"] == "first"
    rows = before.reference()["first"]["rows"]
    assert len(rows) == 16
    assert {row["question"] for row in rows} == {p.question for p in problems(workspace, "first").validation}
    production = project.release(before)

    newer = load_domain("lab/sort_desc", SplitSizes(64, 1, 1), 0).train
    pairs = [(p.question, p.answer) for p in newer]
    values["adapt"] = {**values["adapt"], "min_problems": 60}
    tellers = {p.question: ["alice"] if i % 4 else ["alice", "bob"] for i, p in enumerate(newer)}
    found = plan(params_from_dict(values), project.places, "first", pairs, "prod", {}, tellers)
    adapted = found.workspace(params_from_dict(values), project.places, production)
    run_stages(adapted, found.fast)
    after = candidate(adapted, found.fast)
    assert list(after.manifest["domains"]) == ["first"]
    facts = after.manifest["domains"]["first"]
    assert (facts["spec"], facts["stage"]) == (f"jsonl:{found.data}#whole", found.fast)
    assert after.manifest["run"]["domain"] == found.fast
    weights = "adapter/adapter_model.safetensors"
    assert after.manifest["files"][weights] == before.manifest["files"][weights]
    served = before.prompts()["first"]["prompts"][0]["id"]
    begun = load_run(job_of(adapted, found.fast).folder).evaluations[0]
    assert begun["prompt"] == served, "the prompt that was served is where it began"
    assert facts["tenants"] == {mark("alice"): 64, mark("bob"): 16}, "the trail back to who said so"
    held_out = after.evaluation()["first"]["tenants"]
    assert set(held_out[mark("alice")]["held_out"]) == set(after.evaluation()["first"]["problems"])
    assert {row["question"] for row in after.reference()["first"]["rows"]} <= {question for question, _ in pairs}
