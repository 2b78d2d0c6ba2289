"""Releases: the gate, the way back, and where a bundle comes from."""

from __future__ import annotations

from pathlib import Path

from fst.cli.options import SETTINGS, Channel, Domain, Reference, Settings, show
from fst.cli.stage import workspace_of
from fst.errors import ConfigError, GateRefused, IntegrityError


def release(name: Domain, /, *, channel: Channel = None, dry_run: bool = False, settings: Settings = SETTINGS) -> None:
    """Judge a domain's bundle against production, and release it if it passes.

    Exit code 5: the gate refuses; 6: another release moved the channel in the meantime.

    Example: fst release sort_add --dry-run

    Args:
        dry_run: Only decide; nothing is published or moved.
    """
    from fst.release.candidate import Candidate
    from fst.release.tables import decision_page

    workspace = workspace_of(name, settings)
    place = workspace.places.bundled(name)
    if not place.exists():
        raise ConfigError(f"{place} is not there yet; make it with `dvc repro bundle@{name}`")
    candidate = Candidate.of(workspace, name, channel)
    aim = candidate.channel
    if candidate.released_as:
        served = "points at it" if aim.bundle == candidate.released_as else f"has moved on to {aim.bundle}"
        show(f"released before, as bundle {candidate.released_as}; channel {aim.name} {served}")
        return
    decision = candidate.judge()
    show(decision_page(decision.as_dict()), f"decision: {candidate.decision_file}")
    if not dry_run:
        released = candidate.release(decision)
        show(f"released: bundle {released}; channel {aim.name} points at it (candidate {candidate.bundle.id[:12]})")
    elif decision.verdict == "refuse":
        reasons = "\n".join(f"  - {reason}" for reason in decision.reasons)
        raise GateRefused(f"{name} would not be released:\n{reasons}")
    else:
        show(f"dry run: {name} would be released to channel {aim.name}")


def rollback(
    *, channel: Channel = None, to: str | None = None, reason: str = "", settings: Settings = SETTINGS
) -> None:
    """Move a channel back to its previous release; repeat to go further back.

    Example: fst rollback --channel prod --to 3f2a91

    Args:
        to: An earlier release of the channel: an id or the beginning of one (6 digits or more), or another channel.
        reason: A sentence for the channel's history.
    """
    from fst.release.references import References

    params = settings.read()
    references = References.of(params)
    name = channel or params.store.channel
    before = references.releases.channel(name).bundle
    after = references.releases.rollback(name, references.past(to), reason)
    show(f"channel {name}: from bundle {before} back to {after.bundle}")


def explain(reference: Reference, /, *, print_params: bool = False, settings: Settings = SETTINGS) -> None:
    """Show where a bundle comes from, and the commands that rebuild it.

    Commit, data, whose feedback it learned from, parameters, the bundles it builds on, the ancestry of its prompts, the
    gate's decision.

    Example: fst explain prod

    Args:
        print_params: Print only the params.yaml that it was made with, as YAML.
    """
    from fst.data.validation.page import visible
    from fst.release.explain import explain
    from fst.release.explain_tables import explain_page
    from fst.release.recipe import recipe_of
    from fst.release.references import References
    from fst.release.reproduce import head
    from fst.serving.keys import tenants_of

    params = settings.read()
    references = References.of(params)
    found = references.bundle(reference)
    if print_params:
        print(recipe_of(found.manifest, params, head(references.places.root)).params_yaml, end="")
    else:
        explanation = explain(found, references.known(), tenants_of(params.serve.keys))
        show(explain_page(explanation), "to make it again:")
        show(*(f"  {visible(command)}".rstrip() for command in explanation.commands))


def reproduce(
    reference: Reference,
    /,
    *,
    keep: Path | None = None,
    allow_changes: bool = False,
    settings: Settings = SETTINGS,
) -> None:
    """Rebuild a bundle from its commit, parameters and data, and compare every byte.

    Releases that it builds on are rebuilt first, each with its own commit and parameters. Exit code 7: something
    differs; the output says what.

    Example: fst reproduce prod

    Args:
        keep: Work in this new folder and keep it; a temporary folder if not given.
        allow_changes: For a bundle that was made with uncommitted changes: rebuild it from its commit, without them.
    """
    from fst.release.recipe import differences, recipe_of, steps_of
    from fst.release.references import References
    from fst.release.reproduce import head, other_versions, reproduce

    params = settings.read()
    references = References.of(params)
    project = references.places.root
    found = references.bundle(reference)
    recipe = recipe_of(found.manifest, params, head(project))
    if recipe.changed and not allow_changes:
        raise ConfigError(
            f"bundle {found.id[:12]} was made from commit {recipe.commit} with changes that are in no commit; "
            f"--allow-changes makes it again without them"
        )
    if recipe.changed:
        show(f"without the changes that it was made with: they are in no commit beside {recipe.commit}")
    if others := other_versions(found.manifest["versions"]):
        show(f"other versions than it was made with, so it may come out different: {', '.join(others)}")
    released = [references.releases.manifest(one.id) for one in references.releases.bundles()]
    made = reproduce(steps_of(found.manifest, recipe, params, released), project, keep, show)
    if lines := differences(recipe.expected, made.manifest):
        raise IntegrityError(f"bundle {found.id[:12]} came out different:\n" + "\n".join(lines))
    show(f"the same bytes: candidate {made.id}" + (f" of bundle {found.id}" if found.id != made.id else ""))
