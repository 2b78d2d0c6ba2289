"""What each command of the pipeline does, one function a command. Heavy imports happen inside, so --help is quick."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from fst.cli.options import read_params, refuse_given
from fst.errors import ConfigError, GateRefused, IntegrityError
from fst.files import document
from fst.stages.places import Places

if TYPE_CHECKING:
    from fst.release.references import References
    from fst.stages.stages import Stages

_WIDTH = 110  # where there is no terminal


def _stages(options: argparse.Namespace, name: str) -> Stages:
    """The project's stages. Raises ConfigError for a domain that it does not have."""
    from fst.stages.stages import BASE, Stages

    params = read_params(options)
    if name != BASE or options.command != "bundle":
        params.domain(name)
    return Stages(params, quiet=getattr(options, "quiet", False))


def _references(options: argparse.Namespace) -> References:
    from fst.release.references import References

    return References.of(read_params(options))


def _show(*pages: RenderableType) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    for page in pages:
        console.print(page, highlight=False, markup=False, emoji=False, soft_wrap=isinstance(page, str))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# -- stages ---------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """A domain's problems, written down."""
    stages = _stages(options, options.name)
    folder, domain = stages.prepare(options.name), stages.problems(options.name)
    sizes = f"{len(domain.train)} training, {len(domain.validation)} validation, {len(domain.test)} test problems"
    _show(f"{options.name}: {sizes} in {folder}")


def validate(options: argparse.Namespace) -> None:
    """The data suites, on prepared problems or on a file of the user's."""
    if options.data:
        from fst.data.validation import require, table, validate_raw, write_page

        found, page = validate_raw(options.data), Places().raw_page(options.data.stem)
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page([found], page)
        require([found], page)
        _show(table(found), f"page: {page}")
        return
    folder = _stages(options, options.name).validate(options.name)
    from fst.data.validation import Finding, Validation, table

    for values in _read(folder / "validation.json"):
        findings = [Finding(**{**f, "failed_rows": tuple(f["failed_rows"])}) for f in values["findings"]]
        _show(table(Validation(values["suite"], values["subject"], values["rows"], tuple(findings))))
    _show(f"page: {folder / 'index.html'}")


def train_stage(options: argparse.Namespace) -> None:
    """The stage `train` of a domain."""
    from fst.method import ranks

    says = f"params.yaml says it for the domain {options.name!r}; change it there, or leave the name out"
    refuse_given(options, ("arm", "domain", "data", "seed", "run", "runs"), says)
    stages = _stages(options, options.name)
    folder = stages.train(options.name)
    if ranks.rank():
        return  # rank 0 writes the outputs
    did, best = _read(folder / "training.json"), _read(folder / "prompts.json")["prompts"][0]
    spent = did["rollouts"]
    _show(
        f"{options.name}: {did['arm']}, seed {did['seed']}, {did['cycles']} cycles, {did['steps']} RL steps; rollouts "
        f"{spent['train']} training, {spent['fast']} fast, {spent['eval']} evaluation.",
        f"best prompt: {best['text']!r}",
        f"written: {folder}, {stages.places.curve(options.name)}",
    )


def evaluate_stage(options: argparse.Namespace, name: str) -> None:
    """The stage `evaluate` of a domain."""
    refuse_given(options, ("split", "prompt"), "a domain is evaluated on its test split, under each of its prompts")
    stages = _stages(options, name)
    folder = stages.evaluate(name)
    found = _read(stages.places.metrics(name))
    lines = [
        f"{domain}: reward {entry['reward']:.3f} (± {entry['stderr']:.3f}), KL {entry['kl']:.4f} nats a token, "
        f"{entry['tokens_per_answer']:.1f} tokens an answer"
        for domain, entry in _read(folder / "evaluation.json").items()
    ]
    _show(*lines, f"most that an earlier domain lost: {found['forgetting']:.3f}", f"written: {folder}")


def bundle(options: argparse.Namespace) -> None:
    """The stage `bundle` of a domain, or the untrained base's."""
    from fst.stages.stages import BASE
    from fst.store.bundle import read_bundle

    stages = _stages(options, options.name)
    folder = stages.base() if options.name == BASE else stages.bundle(options.name)
    _show(f"{folder}: bundle {read_bundle(folder).id}")


# -- releases -------------------------------------------------------------------------------------------


def release(options: argparse.Namespace) -> None:
    """Judge a candidate, and let it replace production."""
    from fst.release.candidate import Candidate
    from fst.release.tables import decision_page

    stages = _stages(options, options.name)
    place = stages.places.bundled(options.name)
    if not place.exists():
        raise ConfigError(f"{place} is not there yet; make it with `dvc repro bundle@{options.name}`")
    candidate = Candidate.of(stages, options.name, options.channel)
    channel = candidate.channel
    if candidate.released_as:
        served = "points at it" if channel.bundle == candidate.released_as else f"has moved on to {channel.bundle}"
        _show(f"released before, as bundle {candidate.released_as}; channel {channel.name} {served}")
        return
    decision = candidate.judge()
    _show(decision_page(decision.as_dict()), f"decision: {candidate.decision_file}")
    if not options.dry_run:
        released = candidate.release(decision)
        _show(f"released: bundle {released}; channel {channel.name} points at it")
    elif decision.verdict == "refuse":
        reasons = "\n".join(f"  - {reason}" for reason in decision.reasons)
        raise GateRefused(f"{options.name} would not be released:\n{reasons}")
    else:
        _show(f"dry run: {options.name} would be released to channel {channel.name}")


def rollback(options: argparse.Namespace) -> None:
    """A channel, back to a release that it had before."""
    params = read_params(options)
    from fst.release.references import References

    references = References.of(params)
    name = options.channel or params.store.channel
    before = references.releases.channel(name).bundle
    after = references.releases.rollback(name, references.past(options.to), options.reason)
    _show(f"channel {name}: from bundle {before} back to {after.bundle}")


# -- bundles --------------------------------------------------------------------------------------------


def bundles_list(options: argparse.Namespace) -> None:
    """Every bundle of the store."""
    from fst.release.tables import list_table
    from fst.release.views import as_json, catalogue

    listed = catalogue(_references(options))
    if options.json:
        print(document([as_json(one) for one in listed]), end="")
    else:
        _show(list_table(listed))


def bundles_show(options: argparse.Namespace) -> None:
    """One bundle."""
    from fst.release.tables import show_page
    from fst.release.views import as_json, in_full

    references = _references(options)
    found = references.bundle(options.reference)
    shown = in_full(found, references.channels().get(found.id, []))
    if options.json:
        print(document(as_json(shown)), end="")
    else:
        _show(show_page(shown))


def bundles_diff(options: argparse.Namespace) -> None:
    """Two bundles side by side."""
    from fst.release.tables import diff_page
    from fst.release.views import compare

    references = _references(options)
    _show(diff_page(compare(references.bundle(options.first), references.bundle(options.second))))


def bundles_gc(options: argparse.Namespace) -> None:
    """What nobody needs, removed from the store."""
    from datetime import timedelta

    hours = options.older_than_hours
    if not 0 <= hours <= 24 * 365 * 100:
        raise ConfigError(f"--older-than-hours {hours:g}: is out of range; give hours, at least 0")
    removed = _references(options).releases.collect(timedelta(hours=hours), options.dry_run)
    did = "would be removed" if options.dry_run else "removed"
    _show(*removed, f"{len(removed)} {did}: what is older than {hours:g} hours and no channel ever pointed at")


# -- origins --------------------------------------------------------------------------------------------


def explain(options: argparse.Namespace) -> None:
    """Where a bundle comes from."""
    from fst.data.validation.page import visible
    from fst.release.explain import explain
    from fst.release.explain_tables import explain_page
    from fst.release.recipe import recipe_of

    references, now = _references(options), read_params(options)
    found = references.bundle(options.reference)
    if options.print_params:
        from fst.release.reproduce import head

        print(recipe_of(found.manifest, now, head(references.places.root)).params_yaml, end="")
    else:
        explanation = explain(found, references.known())
        _show(explain_page(explanation), "to make it again:")
        _show(*(f"  {visible(command)}".rstrip() for command in explanation.commands))


def reproduce(options: argparse.Namespace) -> None:
    """A bundle, made again and compared."""
    from fst.release.recipe import differences, recipe_of
    from fst.release.reproduce import head, other_versions, reproduce

    references, now = _references(options), read_params(options)
    project = references.places.root
    found = references.bundle(options.reference)
    recipe = recipe_of(found.manifest, now, head(project))
    if recipe.changed and not options.allow_changes:
        raise ConfigError(
            f"bundle {found.id[:12]} was made from commit {recipe.commit} with changes that are in no commit; "
            f"--allow-changes makes it again without them"
        )
    if recipe.changed:
        _show(f"without the changes that it was made with: they are in no commit beside {recipe.commit}")
    if others := other_versions(found.manifest["versions"]):
        _show(f"other versions than it was made with, so it may come out different: {', '.join(others)}")
    made = reproduce(recipe, project, options.keep, _show)
    if lines := differences(recipe.expected, made.manifest):
        raise IntegrityError(f"bundle {found.id[:12]} came out different:\n" + "\n".join(lines))
    _show(f"the same bytes: candidate {made.id}" + (f" of bundle {found.id}" if found.id != made.id else ""))
