"""Where a bundle comes from, on hand-made bundles.

e1  the facts: commit, dvc.lock, base, data, parameters, what was spent, the gate's figures
e2  the chain of bundles it builds on, to the base; where it cannot be followed, it says so
e3  each shipped prompt's ancestry, to what it began as; shared ancestors are told once, unknown ones are named
e4  the commands to make it again are whole, and fit what is known of the bundle
e5  the params.yaml that it was made with can be read again, whatever the domains are called
e6  a release leads back to its candidate, byte for byte; one that does not is refused
e7  what differs between two manifests is told, files with both hashes
e8  ids are folded in a narrow terminal, never cut
e9  a release that it builds on is a step of its own on the way back, where commit or parameters are others
e10 the tenants whose feedback the problems were made of are told, by name where the key file has it
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from fst.cli import app, main
from fst.config import Params, params_from_dict
from fst.errors import ConfigError, IntegrityError
from fst.release.explain import Ancestor, ancestors, chain, commands, explain
from fst.release.explain_tables import explain_page
from fst.release.recipe import candidate_manifest, differences, in_order, recipe_of, steps_of
from fst.release.references import References
from fst.serving.keys import add_key, tenants_of
from fst.store.bundle import Bundle, read_bundle, write_bundle
from fst.traffic.trust import mark
from fst.types import prompt_id
from support.release_toys import COMMIT, PARAMS, SEED, ToyProject, prompt


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    monkeypatch.chdir(tmp_path)
    return ToyProject(tmp_path)


@pytest.fixture
def release(project: ToyProject) -> Bundle:
    """The second of two releases."""
    first = project.release(project.candidate("zeta", project.base(), 0.5))
    candidate = project.candidate("alpha", read_bundle(project.places.bundled("zeta")), 0.75, best="backwards")
    return project.release(candidate, first)


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """Lines of the page, with single blanks and without the lines around the cells."""
    assert main(["explain", *arguments]) == 0
    out = capsys.readouterr().out
    return [" ".join(re.split(r"[│┃\s]+", line)).strip() for line in out.splitlines()]


def test_e1_the_facts(release: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    page = explained(capsys, "prod")
    assert page[:9] == [
        f"bundle {release.id}",
        f"candidate {release.manifest['candidate']}",
        f"commit {COMMIT}",
        f"dvc.lock sha256 {'1' * 64}",
        f"base lab, sha256 {'b' * 64}",
        "trained alpha: fst, seed 7",
        "for 3 cycles, 18 RL steps",
        "rollouts 320 training, 48 fast, 640 evaluation",
        "versions torch 2.13.0",
    ]
    assert f"zeta lab/reverse {'d' * 64}" in page
    assert f"alpha lab/letters:reverse {'d' * 64}" in page
    loop = "loop balance fixed, cycles 3, reuse False, rollout_budget 0, seed_prompt solve the task, signal [],"
    assert page[page.index(loop) + 1] == "signal_temperature 1.5, steps_per_cycle 6"
    assert "train arm fst, seed 0" in page
    assert any(line.startswith("reward all pass 0.5") for line in page)
    assert any(line.startswith("kl alpha pass 0.25 2 alpha: KL from the base of 0.250") for line in page)
    assert "zeta +0.2500 [+0.2500, +0.2500]" in page


def test_e2_the_chain(project: ToyProject, release: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    zeta, base = (read_bundle(project.places.bundled(name)).id for name in ("zeta", "base"))
    first = release.manifest["gate"]["production"]
    start = f"builds on, from {release.id[:12]} back:"
    page = explained(capsys, "prod")
    at = page.index(start)
    assert page[at + 1 : at + 3] == [
        f"└── {zeta[:12]} zeta: fst, seed 7, released as {first[:12]}",
        f"└── {base[:12]} the base: it serves no domain",
    ]
    # Elsewhere, with the store alone, it can still be told: only the base is served with no other domain.
    for name in ("zeta", "base"):
        (project.places.bundled(name) / "manifest.json").unlink()
    assert explained(capsys, "prod")[at + 1 : at + 3] == page[at + 1 : at + 3]


def test_e2_a_candidate_that_was_not_released_is_found_in_the_project(project: ToyProject) -> None:
    zeta = project.candidate("zeta", project.base(), 0.5)
    alpha = project.release(project.candidate("alpha", zeta, 0.75))
    references = References(project.releases, project.places)
    near, far = chain(alpha.manifest, references.known())
    assert (near.candidate, near.release, near.says) == (zeta.id, None, "zeta: fst, seed 7")
    assert far.candidate == zeta.manifest["start"]
    (zeta.folder / "prompts.json").write_text("damaged")
    (lost,) = chain(alpha.manifest, references.known())
    assert (lost.candidate, lost.says) == (zeta.id, "neither in the store nor in models/bundles")
    assert chain(project.base().manifest, references.known()) == []


def test_e3_the_tree_in_the_terminal(release: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    page = explained(capsys, "prod")
    at = page.index("prompts of alpha, best first, each with those it was made from:")
    assert page[at + 1 : at + 6] == [
        f"├── {prompt_id('backwards')} reflection, round 2 backwards",
        f"└── {prompt_id('turn it')} reflection, round 1 turn it",
        f"└── {prompt_id(SEED)} seed, round 0 {SEED}",
        f"└── {prompt_id('turn it')} reflection, round 1 turn it",
        f"└── {prompt_id(SEED)} seed, round 0 {SEED}",
    ]


def texts(tree: Ancestor) -> Any:
    """A tree by its texts: (text, its parents)."""
    return (tree.text, [texts(parent) for parent in tree.parents])


def test_e3_shared_and_unknown_ancestors() -> None:
    shipped = [prompt("child", "left", "right", born=3), prompt("alone", "forgotten", born=1)]
    entry = {"prompts": shipped, "ancestry": [prompt("left", SEED), prompt("right", "left"), prompt(SEED)]}
    child, alone = ancestors(entry)
    assert texts(child) == ("child", [("left", [(SEED, [])]), ("right", [("left", [])])])
    assert [parent.parents[0].repeated for parent in child.parents] == [False, True]
    assert texts(alone) == ("alone", [(None, [])])
    assert alone.parents[0].id == prompt_id("forgotten")


def test_e3_prompts_that_lead_to_each_other_end() -> None:
    entry = {"prompts": [prompt("a", "b"), prompt("b", "a")], "ancestry": []}
    assert texts(ancestors(entry)[0]) == ("a", [("b", [("a", [])])])


def test_e4_the_commands_are_whole(release: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    short = release.id[:12]
    page = explained(capsys, "prod")
    assert page[page.index("to make it again:") + 1 :] == [
        f"fst reproduce {short}",
        "",
        "# or step by step:",
        f"git clone --shared . ../fst-{short} && git -C ../fst-{short} checkout {COMMIT}",
        f"fst explain {short} --print-params > ../fst-{short}/params.yaml",
        f"cd ../fst-{short} && make install && . .venv/bin/activate",
        "dvc repro --force --no-run-cache bundle@alpha",
        f"sha256sum models/bundles/alpha/manifest.json # {release.manifest['candidate']}",
    ]


def test_e4_the_commands_fit_the_bundle(project: ToyProject, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = project.candidate("zeta", project.base(), 0.5)
    assert commands(candidate)[0] == f"fst reproduce {candidate.folder}"
    assert commands(read_bundle(project.places.bundled("base")))[-2] == "dvc repro --force base"
    changed = project.released(candidate, commit=f"{COMMIT}+changes")
    assert commands(changed)[0].startswith(f"fst reproduce {changed.id[:12]} --allow-changes ")
    assert any(command.endswith(f"checkout {COMMIT}") for command in commands(changed))
    outside = project.released(candidate, commit="unknown")
    assert commands(outside) == ["# none: it was made outside of git, so nobody knows from which code"]
    page = explained(capsys, str(candidate.folder))
    assert "candidate it is one itself: not released" in page
    assert "commit not said before the release" in page
    assert "No gate has judged it: it is a candidate." in page
    assert f"fst reproduce {candidate.folder}" in page


def test_e4_the_commands_exist(release: Bundle) -> None:
    """Every line that begins with `fst` is understood by the command line itself."""
    ours = [shlex.split(command.partition(" >")[0])[1:] for command in commands(release) if command.startswith("fst")]
    found = [app.parse_args(arguments, exit_on_error=False)[0].__name__ for arguments in ours]
    assert found == ["reproduce", "explain"]


def test_e5_the_params_can_be_read_again(
    project: ToyProject, release: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest holds `alpha` before `zeta`, which it builds on; params.yaml needs them the other way."""
    before = project.params
    project.places.params.write_text("domains: {other: {spec: lab/reverse}}\nstore: {url: store}\nloop: {cycles: 9}\n")
    assert list(release.manifest["provenance"]["params"]["domains"]) == ["alpha", "zeta"]
    assert main(["explain", release.id, "--print-params"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert params_from_dict(values) == before
    assert list(values["domains"]) == ["zeta", "alpha"]


def test_e5_every_order_of_the_domains_is_mended() -> None:
    starts = {"zeta": "base", "mid": "zeta", "alpha": "mid", "beta": "base"}
    for names in itertools.permutations(starts):
        given = {"loop": {}, "domains": {name: {"start": starts[name]} for name in names}}
        ordered = in_order(given)
        assert params_from_dict(ordered).domains.keys() == starts.keys()
        assert ordered["loop"] == {}
    with pytest.raises(ConfigError, match="each of a, b builds on another of them"):
        in_order({"domains": {"a": {"start": "b"}, "b": {"start": "a"}, "c": {"start": "base"}}})


def test_e5_a_candidate_takes_what_it_does_not_say_from_now(project: ToyProject) -> None:
    candidate = project.candidate("zeta", project.base(), 0.5)
    now = project.params.replace(loop=project.params.loop.replace(cycles=99))
    recipe = recipe_of(candidate.manifest, now, COMMIT)
    assert (recipe.stage, recipe.name, recipe.commit, recipe.bundle) == ("bundle@zeta", "zeta", COMMIT, candidate.id)
    made_with = params_from_dict(yaml.safe_load(recipe.params_yaml))
    assert made_with.loop.cycles == 3
    assert (made_with.train.arm, made_with.train.seed) == ("fst", 7)
    assert made_with.domains == project.params.domains
    assert recipe_of(read_bundle(project.places.bundled("base")).manifest, now, COMMIT).stage == "base"
    with pytest.raises(ConfigError, match=r"domains\.zeta: params\.yaml has no such domain"):
        recipe_of(candidate.manifest, params_from_dict({}), COMMIT)
    with pytest.raises(ConfigError, match="made outside of git"):
        recipe_of(candidate.manifest, now, "unknown")


def test_e6_a_release_leads_back_to_its_candidate(project: ToyProject, release: Bundle) -> None:
    candidate = read_bundle(project.places.bundled("alpha"))
    assert candidate_manifest(release.manifest) == candidate.manifest
    assert candidate_manifest(candidate.manifest) == candidate.manifest
    assert recipe_of(release.manifest, params_from_dict({}), "not asked").bundle == candidate.id


@pytest.mark.parametrize("change", [{"candidate": "a" * 64}, {"base": {"name": "lab", "sha256": "e" * 64}}])
def test_e6_a_release_of_something_else_is_refused(change: dict[str, Any], release: Bundle) -> None:
    with pytest.raises(IntegrityError, match="its manifest says that it was made of the candidate"):
        recipe_of({**release.manifest, **change}, params_from_dict({}), COMMIT)


def test_e6_a_domain_that_is_a_shell_command_is_refused(project: ToyProject, release: Bundle) -> None:
    """dvc.yaml puts the names of domains into commands."""
    candidate = read_bundle(project.places.bundled("alpha"))
    evil = {
        **release.manifest["provenance"]["params"],
        "domains": {"x; touch owned": {"spec": "lab/reverse", "start": "base"}},
    }
    planted = project.released(candidate, params=evil)
    with pytest.raises(IntegrityError, match=r"a domain 'x; touch owned', which no params\.yaml may have"):
        recipe_of(planted.manifest, project.params, COMMIT)
    run = {**candidate.manifest["run"], "domain": "../../outside"}
    with pytest.raises(IntegrityError, match=r"a domain '\.\./\.\./outside'"):
        recipe_of({**candidate.manifest, "run": run}, project.params, COMMIT)
    changed = dataclasses.replace(candidate, manifest={**candidate.manifest, "run": {**run, "domain": "a; b"}})
    assert "dvc repro --force 'bundle@a; b'" in commands(changed)


def test_e6_a_release_without_a_candidate_is_refused(
    project: ToyProject, release: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = {name: json.loads((release.folder / name).read_text()) for name in ("prompts.json", "evaluation.json")}
    folder = write_bundle(
        project.root / "odd", {**release.manifest, "candidate": None}, documents, release.adapter
    ).folder
    assert main(["reproduce", str(folder)]) == 7
    assert "its manifest names no candidate" in capsys.readouterr().err


def test_e7_differences(project: ToyProject) -> None:
    one = project.candidate("zeta", project.base(), 0.5)
    other = project.candidate("zeta", project.base(), 0.5, best="another prompt")
    assert differences(one.manifest, one.manifest) == []
    found = differences(one.manifest, other.manifest)
    assert [line.splitlines()[0].strip() for line in found if "\n" in line] == [
        "evaluation.json",
        "manifest.json",
        "prompts.json",
    ]
    then, now = (side.manifest["files"]["prompts.json"]["sha256"] for side in (one, other))
    assert f"  prompts.json\n    then  {then}\n    now   {now}" in found
    prompts = [prompt_id(text) for text in ("reverse it", "another prompt")]
    assert f"  domains.zeta.prompt: {prompts[0]!r} then, {prompts[1]!r} now" in found
    newer = {**one.manifest, "versions": {"torch": "2.14.0"}, "start": "f" * 64}
    assert differences(one.manifest, newer)[1:] == [
        f"  builds on: {one.manifest['start']!r} then, {'f' * 64!r} now",
        "  versions.torch: '2.13.0' then, '2.14.0' now",
    ]
    alone = {**one.manifest, "files": {k: v for k, v in one.manifest["files"].items() if "adapter" not in k}}
    assert any(line.endswith("now   not there") for line in differences(one.manifest, alone))


def test_e8_a_narrow_terminal_shows_every_digit(release: Bundle) -> None:
    console = Console(width=60, file=io.StringIO(), record=True)
    console.print(explain_page(explain(release, [])))
    shown = re.sub(r"[│┃\s]+", "", console.export_text())
    assert release.id in shown
    assert release.manifest["candidate"] in shown


def chained(project: ToyProject, *cycles: int) -> list[Bundle]:
    """Releases of zeta and of alpha on top of it, each with parameters of its own; what alpha builds on is noted."""
    made: list[Bundle] = []
    candidates: list[Bundle] = [project.base()]
    for name, number in zip(("zeta", "alpha"), cycles, strict=True):
        project.places.params.write_text(PARAMS.replace("cycles: 3", f"cycles: {number}"))
        candidates.append(project.candidate(name, candidates[-1], 0.5 + 0.1 * len(made)))
        names = ("base", "zeta")[: len(candidates) - 1]
        below = [{"stage": n, "candidate": c.id} for n, c in zip(names, candidates, strict=False)][::-1]
        made.append(project.release(candidates[-1], made[-1] if made else None, lineage=below))
    return made


def steps(bundle: Bundle, released: list[Bundle], now: Params) -> list[tuple[str, tuple[str, ...], int, str]]:
    """(stage that is asked for, names, cycles, commit) of each step to a bundle."""
    recipe = recipe_of(bundle.manifest, now, COMMIT)
    found = steps_of(bundle.manifest, recipe, now, [one.manifest for one in released])
    return [(s.recipe.stage, s.names, s.recipe.params["loop"]["cycles"], s.recipe.commit) for s in found]


def test_e9_each_release_below_is_a_step_with_its_own_parameters(
    project: ToyProject, capsys: pytest.CaptureFixture[str]
) -> None:
    zeta, alpha = chained(project, 2, 5)
    project.places.params.write_text(PARAMS.replace("cycles: 3", "cycles: 9"))
    apart = [("bundle@zeta", (), 2, COMMIT), ("bundle@alpha", ("alpha",), 5, COMMIT)]
    assert steps(alpha, [zeta, alpha], project.params) == apart
    assert steps(alpha, [alpha], project.params) == [("bundle@alpha", (), 5, COMMIT)], "never released: made with alpha"
    page = explained(capsys, alpha.id)
    assert page[page.index("to make it again:") + 1 :] == [
        f"fst reproduce {alpha.id[:12]}",
        "# What it builds on was released with another commit or other parameters, and is made first.",
    ]


def test_e9_the_same_parameters_and_commit_are_one_step(project: ToyProject) -> None:
    zeta, alpha = chained(project, 4, 4)
    assert steps(alpha, [zeta, alpha], project.params) == [("bundle@alpha", (), 4, COMMIT)]


@pytest.mark.parametrize("commit", ["unknown", f"{'ab' * 20}+changes"])
def test_e9_a_commit_that_is_not_clean_gives_way_to_that_of_the_bundle(project: ToyProject, commit: str) -> None:
    zeta, alpha = chained(project, 2, 5)
    unclean = {**zeta.manifest, "provenance": {**zeta.manifest["provenance"], "commit": commit}}
    found = steps_of(alpha.manifest, recipe_of(alpha.manifest, project.params, COMMIT), project.params, [unclean])
    assert [(s.recipe.commit, s.recipe.params["loop"]["cycles"]) for s in found] == [(COMMIT, 2), (COMMIT, 5)]


def test_e9_releases_that_name_each_other_end_and_strange_names_are_refused(project: ToyProject) -> None:
    zeta, alpha = chained(project, 2, 5)
    recipe = recipe_of(alpha.manifest, project.params, COMMIT)
    back = [{"stage": "alpha", "candidate": alpha.manifest["candidate"]}]
    looped = {**zeta.manifest, "provenance": {**zeta.manifest["provenance"], "lineage": back}}
    assert len(steps_of(alpha.manifest, recipe, project.params, [looped, alpha.manifest])) == 3
    evil = [{"stage": "x; touch owned", "candidate": "0" * 64}, *alpha.manifest["provenance"]["lineage"]]
    planted = {**alpha.manifest, "provenance": {**alpha.manifest["provenance"], "lineage": evil}}
    with pytest.raises(IntegrityError, match="to build on 'x; touch owned', which is no domain"):
        steps_of(planted, recipe, project.params, [zeta.manifest])


def test_e10_the_tenants_whose_feedback_made_the_problems(release: Bundle) -> None:
    """Known names stand beside their marks; others stay marks."""
    domains = {d: dict(facts) for d, facts in release.manifest["domains"].items()}
    domains["zeta"]["tenants"] = {mark("alice"): 12, mark("bob"): 30}
    told = Bundle(release.folder, {**release.manifest, "domains": domains})
    found = explain(told, [], ["alice", "carol"])
    assert found.tenants == (("zeta", mark("bob"), 30), ("zeta", f"{mark('alice')} (alice)", 12))
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(explain_page(found))
    shown = console.export_text()
    assert "whose feedback the problems were made of" in shown
    assert f"{mark('alice')} (alice)" in shown
    assert explain(release, []).tenants == ()


def test_e10_the_names_are_those_of_the_key_file(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", "bob", "feedback")
    assert tenants_of(str(tmp_path / "keys.json")) == ["bob", "local"]
    assert tenants_of("") == tenants_of(str(tmp_path / "none.json")) == ["local"]
