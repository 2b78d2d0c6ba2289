"""The release commands, on hand-made bundles in a local store.

c1  `bundles list` says of every bundle what it is, what it reaches, and which channel points at it
c2  `bundles show` says it of one, in full; --json of both holds the same, whole
c3  `bundles diff`: prompts side by side, figures with their difference, and what it was made with
c4  `bundles gc` removes what no channel needs, and nothing in a dry run
c5  `rollback` goes back, further back, and to a release by name; where it cannot, it says so and changes nothing
c6  `release` shows the decision and moves the channel; a dry run does not; a refusal is exit code 5 with its rules
c7  what is no bundle is a sentence with the right exit code: unknown, ambiguous, damaged, missing
c8  the stages refuse options that would do nothing, and names that nobody has
c9  nothing in a bundle can write to the terminal
c10 none of this loads torch
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fst.cli import main
from fst.errors import ChannelMoved
from fst.files import document
from fst.store.bundle import Bundle, write_bundle
from fst.types import prompt_id
from support.release_toys import PARAMS, ToyProject


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    monkeypatch.chdir(tmp_path)
    return ToyProject(tmp_path)


@pytest.fixture
def two(project: ToyProject) -> tuple[Bundle, Bundle]:
    """Two releases, one on top of the other; `prod` points at the second."""
    first = project.release(project.candidate("zeta", project.base(), 0.5))
    zeta = project.places.bundled("zeta")
    second = project.release(project.candidate("alpha", read(zeta), 0.75, best="backwards"), first)
    return first, second


def read(folder: Path) -> Bundle:
    from fst.store.bundle import read_bundle

    return read_bundle(folder)


def said(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    """What a command says, on stdout when it ends well, on stderr when it does not; its blanks are single."""
    assert main(command) == code
    out, errors = capsys.readouterr()
    assert "Traceback" not in errors
    assert bool(errors) == bool(code)
    return " ".join((errors if code else out).split())


def lines(page: str) -> list[str]:
    """Its lines, without the lines around the cells and with single blanks."""
    return [" ".join(re.split(r"[│┃\s]+", line)).strip() for line in page.splitlines()]


def line(page: str, beginning: str) -> str:
    """The one line that begins so."""
    (found,) = [one for one in lines(page) if one.startswith(beginning)]
    return found


def test_c1_the_list(project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = two
    project.releases.move(project.releases.channel("canary"), first.id, "release", "try it")
    assert main(["bundles", "list"]) == 0
    table = capsys.readouterr().out
    day = project.releases.bundles()[0].at.strftime("%Y-%m-%d")
    pattern = rf"{first.id[:12]} {day} \d\d:\d\d zeta: fst, seed 7 zeta 0\.500 canary"
    assert re.fullmatch(pattern, line(table, first.id[:12]))
    pattern = rf"{second.id[:12]} {day} \d\d:\d\d alpha: fst, seed 7 (alpha|zeta) 0\.750 prod"
    assert re.fullmatch(pattern, line(table, second.id[:12]))
    assert {one for one in lines(table) if "0.750" in one and day not in one} <= {"alpha 0.750", "zeta 0.750"}
    assert table.index(second.id[:12]) < table.index(first.id[:12]), "the newest first"


def test_c1_an_empty_store_says_what_to_do(project: ToyProject, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "bundles", "list") == "The store has no bundles yet; `fst release NAME` publishes one."
    assert said(capsys, "bundles", "list", "--json") == "[]"


def test_c2_json_holds_everything(
    project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two
    listed = json.loads(said(capsys, "bundles", "list", "--json"))
    assert [one["id"] for one in listed] == [second.id, first.id]
    assert [one["channels"] for one in listed] == [["prod"], []]
    assert listed[0]["rewards"] == {"zeta": 0.75, "alpha": 0.75}
    assert listed[1]["run"]["rollouts"] == {"train": 320, "fast": 48, "eval": 640}
    assert listed[1]["at"] == project.releases.bundles()[0].at.isoformat(timespec="seconds")
    assert main(["bundles", "show", "prod", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "id": second.id,
        "manifest": second.manifest,
        "prompts": second.prompts(),
        "evaluation": second.evaluation(),
        "gate": second.gate(),
        "channels": ["prod"],
    }


@pytest.mark.parametrize("kind", ["id", "prefix", "channel", "folder", "candidate", "candidate's prefix"])
def test_c2_a_bundle_by_each_of_its_names(
    kind: str, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = two[1]
    names = {"id": bundle.id, "prefix": bundle.id[:6], "channel": "prod", "folder": str(bundle.folder)}
    made_of = bundle.manifest["candidate"]
    names |= {"candidate": made_of, "candidate's prefix": made_of[:8]}
    assert main(["bundles", "show", names[kind]]) == 0
    page = capsys.readouterr().out
    assert lines(page)[0] == f"bundle {bundle.id}"
    assert line(page, "builds on") == f"builds on {bundle.manifest['start'][:12]}"
    assert "zeta lab/reverse 0.75 0.01 0.25 12.5" in lines(page)
    assert f"1 {prompt_id('backwards')} reflection 1 backwards" in lines(page)
    candidate, production = bundle.manifest["candidate"][:12], two[0].id[:12]
    assert line(page, "gate:") == f"gate: release (candidate {candidate} against {production})"
    assert "zeta +0.2500 [+0.2500, +0.2500]" in lines(page)


def test_c2_the_id_that_the_stage_prints_is_known_before_the_release_and_after(
    project: ToyProject, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = project.candidate("zeta", project.base(), 0.5)
    from fst.cli.stage import _show_bundle

    _show_bundle(candidate.folder)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed == f"{candidate.folder}: candidate {candidate.id}; `fst release zeta` asks the gate for it"
    page = said(capsys, "bundles", "show", candidate.id[:12])
    assert page.startswith(f"bundle {candidate.id} ")
    released = project.release(candidate)
    assert said(capsys, "bundles", "show", candidate.id[:12]).startswith(f"bundle {released.id} ")
    assert said(capsys, "explain", candidate.id).startswith(f"bundle {released.id} ")


def test_c3_two_bundles_side_by_side(
    project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    project.places.params.write_text(PARAMS.replace("cycles: 3", "cycles: 5"))
    third = project.release(project.candidate("alpha", two[0], 0.875, best="from right to left"), two[1])
    assert main(["bundles", "diff", two[1].id[:8], "prod"]) == 0
    page = capsys.readouterr().out
    assert line(page, "alpha 1") == "alpha 1 backwards from right to left"
    assert re.search(r"reflection, score 1 +│ reflection, score 1 ", page), "where a prompt came from"
    assert len(re.findall(r"the same", page)) == 3, "the second prompt of alpha, and both of zeta"
    for domain in ("alpha", "zeta"):
        assert line(page, f"{domain} reward") == f"{domain} reward 0.75 0.875 +0.1250"
        assert line(page, f"{domain} KL") == f"{domain} KL, nats a token 0.25 0.25 +0.0000"
    assert line(page, "loop.") == "loop.cycles 3 5"
    assert "slow." not in page, "what is the same is not listed"
    assert f"{two[1].id[:12]}" in page
    assert f"{third.id[:12]}" in page
    assert main(["bundles", "diff", two[0].id, two[1].id]) == 0
    page = capsys.readouterr().out
    assert line(page, "alpha 1") == "alpha 1 none backwards"
    assert line(page, "alpha reward") == "alpha reward - 0.75 -"
    assert line(page, "run.domain") == "run.domain zeta alpha"


def test_c4_gc(project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    unneeded = project.releases.publish(project.candidate("zeta", project.base(), 0.1).folder)
    kept = {two[0].id, two[1].id}
    assert said(capsys, "bundles", "gc") == "0 removed: what is older than 24 hours and no channel ever pointed at"
    now = ("bundles", "gc", "--older-than-hours", "0")
    assert said(capsys, *now, "--dry-run").startswith(f"{unneeded} 1 would be removed: what is older than 0 hours")
    assert {p.id for p in project.releases.bundles()} == {unneeded, *kept}
    assert said(capsys, *now).startswith(f"{unneeded} 1 removed")
    assert {p.id for p in project.releases.bundles()} == kept
    assert "--older-than-hours nan: is out of range" in said(capsys, *now[:-1], "nan", code=2)


def test_c5_rollback(project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = two
    back = said(capsys, "rollback", "--reason", "too slow")
    assert back == f"channel prod: from bundle {second.id} back to {first.id}"
    channel = project.releases.channel("prod")
    assert (channel.bundle, channel.history[-1].action, channel.history[-1].reason) == (
        first.id,
        "rollback",
        "too slow",
    )
    assert "nothing was released before" in said(capsys, "rollback", code=2)
    said(capsys, "rollback", "--to", second.id[:6])
    assert project.releases.channel("prod").bundle == second.id
    project.releases.move(project.releases.channel("canary"), first.id, "release", "")
    said(capsys, "rollback", "--to", "canary")
    assert project.releases.channel("prod").bundle == first.id
    said(capsys, "rollback", "--to", str(second.folder))
    said(capsys, "rollback", "--to", first.manifest["candidate"][:9])
    assert project.releases.channel("prod").bundle == first.id
    said(capsys, "rollback", "--to", second.manifest["candidate"])
    assert project.releases.channel("prod").bundle == second.id
    assert "channel 'prod'" in said(capsys, "rollback", "--to", "abcdef", code=2)
    assert "channel 'empty' has no release yet, so there is none to go back to; `fst release NAME`" in said(
        capsys, "rollback", "--channel", "empty", code=2
    )
    assert project.releases.channel("prod").bundle == second.id


def test_c6_a_better_candidate_is_released(
    project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    zeta, production = read(project.places.bundled("zeta")), two[1]
    candidate = project.candidate("alpha", zeta, 0.9)
    dry = said(capsys, "release", "alpha", "--dry-run")
    assert "dry run: alpha would be released to channel prod" in dry
    assert f"gate: release (candidate {candidate.id[:12]} against {production.id[:12]})" in dry
    assert project.releases.channel("prod").bundle == production.id
    assert len(project.releases.bundles()) == 2
    assert main(["release", "alpha"]) == 0
    page = capsys.readouterr().out
    channel = project.releases.channel("prod")
    assert channel.bundle not in (None, production.id)
    assert f"released: bundle {channel.bundle}; channel prod points at it" in page
    assert line(page, "reward all").startswith("reward all pass 0.15 0 reward is higher than production's by +0.150")
    assert line(page, "forgetting zeta").startswith("forgetting zeta pass 0 0.05 zeta: lost 0.000 of reward")
    assert "alpha +0.1500 [+0.1500, +0.1500]" in lines(page)
    again = said(capsys, "release", "alpha")
    assert again == f"released before, as bundle {channel.bundle}; channel prod points at it"
    assert project.releases.channel("prod") == channel
    said(capsys, "rollback")
    assert f"channel prod has moved on to {production.id}" in said(capsys, "release", "alpha")
    unprepared = said(capsys, "release", "alpha", "--channel", "canary", code=2)
    assert re.search(r"data/prepared/(zeta|alpha)", unprepared), "without a production the base is asked, by a model"


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_c6_a_worse_candidate_is_refused_with_its_rules(
    dry: list[str], project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    project.candidate("alpha", read(project.places.bundled("zeta")), 0.5, kl=3.5)
    assert main(["release", "alpha", *dry]) == 5
    out, errors = capsys.readouterr()
    assert "gate: refuse" in out
    assert line(out, "kl alpha").startswith("kl alpha REFUSED 3.5 2 alpha: KL")
    assert "alpha: KL from the base of 3.500 nats a token, over by 1.5, the limit of 2" in errors
    assert "reward is lower than production's: -0.250" in errors
    assert ("would not be released" in errors) == bool(dry)
    assert project.releases.channel("prod").bundle == two[1].id
    assert len(project.releases.bundles()) == 2, "nothing was published"


def test_c6_somebody_else_releases_meanwhile(project: ToyProject, two: tuple[Bundle, Bundle]) -> None:
    project.candidate("alpha", read(project.places.bundled("zeta")), 0.9)
    from fst.release.candidate import Candidate
    from fst.stages.workspace import Workspace

    candidate = Candidate.of(Workspace(project.params), "alpha")
    decision = candidate.judge()
    moved = project.releases.rollback("prod")
    with pytest.raises(ChannelMoved, match=f"it points at bundle {two[0].id[:12]} ") as refused:
        candidate.release(decision)
    assert refused.value.exit_code == 6
    assert project.releases.channel("prod") == moved


def test_c6_without_a_candidate(project: ToyProject, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "release", "zeta", code=2).endswith(
        "models/bundles/zeta is not there yet; make it with `dvc repro bundle@zeta`"
    )
    assert "domains.nowhere: params.yaml has no such domain; it has: zeta, alpha" in said(
        capsys, "release", "nowhere", code=2
    )
    project.candidate("zeta", project.base(), 0.5)
    (project.places.bundled("zeta") / "prompts.json").write_text("{}")
    assert "prompts.json has 2 bytes" in said(capsys, "release", "zeta", code=7)


def test_c7_what_nobody_knows(two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["bundles", "show"], ["explain"], ["reproduce"]):
        unknown = said(capsys, *command, "abcdef", code=2)
        assert "'abcdef' is not the id of a bundle in the store" in unknown
        assert "`fst bundles list` shows what there is" in unknown
        assert "channel 'nightly' has no release yet" in said(capsys, *command, "nightly", code=2)
        assert "channel 'No Such'" in said(capsys, *command, "No Such", code=2)
        assert "gone: there is no such folder" in said(capsys, *command, "./gone", code=2)
    assert "channel" in said(capsys, "bundles", "diff", "prod", two[0].id[:5], code=2)


def test_c7_an_ambiguous_beginning_names_those_it_could_be(
    project: ToyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = project.candidate("zeta", project.base(), 0.5)
    met: dict[str, int] = {}
    for number in range(100_000):  # the 6 first digits of two ids agree after some 5,000 on average
        manifest = {**bundle.manifest, "params": number}
        beginning = hashlib.sha256(document(manifest).encode()).hexdigest()[:6]
        if beginning in met:
            break
        met[beginning] = number
    documents = {"prompts.json": bundle.prompts(), "evaluation.json": bundle.evaluation()}
    ids = []
    for same in (met[beginning], number):
        made = write_bundle(tmp_path / "made", {**bundle.manifest, "params": same}, documents, bundle.adapter)
        ids.append(project.releases.publish(made.folder))
    sentence = said(capsys, "bundles", "show", beginning, code=2)
    assert f"{beginning!r} is the beginning of more than one: {', '.join(sorted(ids))}; give more digits" in sentence


def test_c7_a_damaged_bundle_is_refused_and_the_file_named(
    project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, stored = two[1].folder, project.root / "store" / "bundles" / two[0].id
    (folder / "evaluation.json").write_bytes(b"x" * (folder / "evaluation.json").stat().st_size)
    (stored / "prompts.json").chmod(0o644)
    (stored / "prompts.json").write_bytes(b"x" * (stored / "prompts.json").stat().st_size)
    for command in (["bundles", "show"], ["explain"], ["reproduce"]):
        assert "evaluation.json does not match its sha256" in said(capsys, *command, str(folder), code=7)
        assert "prompts.json of bundle" in said(capsys, *command, two[0].id, code=7)
    (project.root / "empty").mkdir()
    assert "is no bundle: it has no manifest.json" in said(capsys, "explain", "./empty", code=7)


def test_c8_options_that_would_do_nothing_are_refused(
    project: ToyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("arm", "rl"), ("domain", "lab/reverse"), ("data", "x.jsonl"), ("seed", "0"), ("run", "x")):
        sentence = said(capsys, "stage", "train", "zeta", f"--{option}", value, code=2)
        assert sentence.startswith(f"fst: unknown option: --{option}. "), "params.yaml says it for a domain"
    for option in ("split", "prompt"):
        assert f"unknown option: --{option}" in said(capsys, "stage", "evaluate", "zeta", f"--{option}", "hm", code=2)
    assert "unknown option: --set" in said(capsys, "evaluate", "runs/x", "--set", "evaluate.samples=1", code=2)
    assert "zeta: no such run folder; a domain of params.yaml has `fst stage evaluate zeta`" in said(
        capsys, "evaluate", "zeta", code=2
    )
    (tmp_path / "folder").mkdir()
    assert "is not a run folder (no readable config.json)" in said(capsys, "evaluate", "folder", code=2)
    for stage in ("prepare", "validate", "train", "evaluate", "bundle"):
        assert "domains.nowhere: params.yaml has no such domain" in said(capsys, "stage", stage, "nowhere", code=2)
    project.base()
    assert "make it with `fst stage train zeta`" in said(capsys, "stage", "bundle", "zeta", code=2)


@pytest.mark.slow
def test_c8_a_problem_file_is_validated_before_it_is_a_domain(
    project: ToyProject, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"p{i}", "question": f"what is {i}?", "answer": str(i)} for i in range(60)]
    file = project.root / "mine.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in rows) + "\n")
    assert said(capsys, "validate", "mine.jsonl").endswith("page: reports/validation/mine.html")
    file.write_text("\n".join(json.dumps(one) for one in [*rows, {**rows[0], "question": "another?"}]) + "\n")
    sentence = said(capsys, "validate", "mine.jsonl", code=5)
    assert re.search(r"\bp0\b.*\b61\b", sentence)
    assert "p0" in (project.root / "reports" / "validation" / "mine.html").read_text()


ESCAPE = "\x1b[2Jgone \x1b]0;title\x07 [bold]not bold[/bold] :smile:"


@pytest.mark.parametrize("command", [["bundles", "show"], ["explain"], ["bundles", "diff", "prod"]])
def test_c9_a_bundle_cannot_write_to_the_terminal(
    command: list[str], project: ToyProject, two: tuple[Bundle, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    project.release(project.candidate("alpha", two[0], 0.8, best=ESCAPE), two[1])
    assert main([*command, "prod" if len(command) < 3 else two[0].id]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    flat: Any = " ".join(re.split(r"[│\s]+", out))
    assert "[bold]not" in flat
    assert ":smile:" in flat


def test_c10_torch_is_not_loaded(project: ToyProject, two: tuple[Bundle, Bundle]) -> None:
    code = (
        "import sys, fst.cli\n"
        "for command in (['bundles', 'list'], ['bundles', 'show', 'prod'], ['explain', 'prod'], ['rollback']):\n"
        "    assert fst.cli.main(command) == 0\n"
        "print([m for m in ('torch', 'transformers', 'great_expectations') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
