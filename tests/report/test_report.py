"""The report, over run folders written by hand: every number asserted here was worked out on paper."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from rich.console import Console

from fst.errors import RecordError
from fst.report.build import build_report, closing_table, summarize
from fst.report.page import efficiency, lineage_tree
from fst.runs.view import PromptView, load_run, mean_curve
from fst.types import prompt_id
from support.run_toys import (
    DOMAIN,
    EVIL,
    GOOD,
    SEED,
    end,
    evaluation,
    fst_events,
    gepa_events,
    prompt,
    rl_events,
    spent,
    step,
    write_run,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    tmp_path = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(tmp_path, "fst", 0, fst_events(0.6)),
        write_run(tmp_path, "fst", 1, fst_events(0.8)),
        write_run(tmp_path, "rl", 0, rl_events()),
        write_run(tmp_path, "gepa", 0, gepa_events()),
    ]
    with (folders[-1] / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"evaluation","round":1,"acc\xc3')
    return folders


@pytest.fixture(scope="module")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one report over all the runs, for the tests that only read it."""
    return build_report(runs, tmp_path_factory.mktemp("report") / "out", "A report").parent


def summary_of(runs: list[Path], out: Path) -> Any:
    build_report(runs, out, "A report")
    return json.loads((out / "summary.json").read_text())


def test_summary_holds_the_contract(report: Path) -> None:
    summary = json.loads((report / "summary.json").read_text())
    arms = summary["domains"][DOMAIN]["arms"]
    assert list(arms) == ["fst", "rl", "gepa"]
    assert arms["fst"] == {
        "accuracy": pytest.approx(0.7),
        "accuracy_by_seed": {"0": 0.6, "1": 0.8},
        "binary": True,
        "problems": [],
        "stderr": pytest.approx(0.03 / 2**0.5),
        "kl": pytest.approx(0.02),
        "rollouts": {"train": 50, "fast": 100, "eval": 30},
        "seconds": 100.0,
        "finished": True,
    }
    assert (arms["rl"]["accuracy"], arms["rl"]["finished"]) == (0.42, True)
    assert (summary["seeds"], summary["commit"], summary["versions"]) == ([0, 1], "abc123", {"torch": "2.13.0"})


def test_an_unfinished_run_stands_at_its_last_evaluation(report: Path) -> None:
    gepa = json.loads((report / "summary.json").read_text())["domains"][DOMAIN]["arms"]["gepa"]
    assert (gepa["accuracy"], gepa["kl"], gepa["finished"]) == (0.25, 0.0, False)
    assert (gepa["rollouts"], gepa["seconds"]) == ({"train": 0, "fast": 80, "eval": 20}, 10.0)


def test_a_run_that_has_only_begun_is_reported_without_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path, "rl", 0, [])
    (run / "events.jsonl").unlink()
    row = summary_of([run], tmp_path / "out")["domains"][DOMAIN]["arms"]["rl"]
    assert (row["accuracy"], row["kl"], row["seconds"], row["finished"]) == (None, None, None, False)
    assert "No evaluation has been written yet." in (tmp_path / "out/index.html").read_text()


def test_a_diverged_run_gives_null_and_not_nan(tmp_path: Path) -> None:
    nan = float("nan")
    run = write_run(tmp_path, "rl", 0, [step(0, 1, nan), evaluation(0, 1, 0.2, nan, spent(8))])
    row = summary_of([run], tmp_path / "out")["domains"][DOMAIN]["arms"]["rl"]
    assert (row["accuracy"], row["kl"]) == (0.2, None)


def test_resume_voids_what_stood_before(runs: list[Path]) -> None:
    view = load_run(runs[0])
    assert [(e["step"], e["reward"]) for e in view.steps] == [(1, 0.4), (2, 0.6)]
    assert [(p.learning, p.accuracy) for p in view.curve()] == [(0, 0.1), (150, 0.5)]
    assert "never happened" not in {p.text for p in view.prompts}


def test_a_torn_line_before_a_resume_is_no_damage_and_elsewhere_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path, "rl", 0, rl_events())
    text = (run / "events.jsonl").read_text().splitlines()
    (run / "events.jsonl").write_text("\n".join([*text[:4], '{"kind":"st', '{"kind":"resume","round":0}', *text[1:]]))
    assert load_run(run).end is not None
    (run / "events.jsonl").write_text("\n".join([*text[:4], '{"kind":"st', *text[4:]]))
    with pytest.raises(RecordError, match=r"events\.jsonl:5 is not an event"):
        load_run(run)


def test_an_event_without_its_fields_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, "rl", 0, [{"kind": "step", "round": 0, "step": 1}, step(0, 2, 0.1)])
    with pytest.raises(RecordError, match=r"events\.jsonl:1: a 'step' event lacks reward"):
        load_run(run)


def test_mean_curve_ends_where_the_first_seed_ends(tmp_path: Path) -> None:
    longer = write_run(tmp_path, "rl", 0, rl_events())
    shorter = write_run(tmp_path, "rl", 1, [*rl_events()[:4], evaluation(0, 1, 0.5, 0.15, spent(400, 0, 20))])
    points = mean_curve([load_run(longer), load_run(shorter)])
    assert [(p.round, p.learning, p.accuracy, p.kl) for p in points] == [
        (-1, 0, 0.1, 0),
        (0, 300, pytest.approx(0.4), pytest.approx(0.1)),
    ]


def test_headline_is_computed_from_the_curves(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert "Test accuracy: fast-slow 70.0%, slow only 42.0%, fast only 25.0% (unfinished, on validation)." in page
    assert "best validation accuracy (40.0%) after 150 learning rollouts; slow only took 600, 4.0 times" in page


def test_no_speed_is_claimed_when_the_target_was_never_reached(tmp_path: Path) -> None:
    slow = load_run(write_run(tmp_path, "rl", 0, rl_events()))
    weak = load_run(
        write_run(tmp_path, "fst", 0, [evaluation(0, 1, 0.2, 0.0, spent(10)), end(0, 0.2, 0, spent(10), [])])
    )
    assert efficiency({"fst": [weak], "rl": [slow]}) == (None, 600, 0.4)
    page = build_report([slow.path, weak.path], tmp_path / "out", "A report").read_text()
    assert "has not reached slow only&#39;s best validation accuracy (40.0%)" in page


def test_everything_from_a_run_is_escaped(tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        "fst",
        0,
        fst_events(0.6),
        domain='x"><script>alert(2)</script>',
        params={"note": "</pre><script>alert(3)"},
        versions={"<script>": "<img src=x>"},
    )
    page = build_report([run], tmp_path / "out", "<script>title</script>").read_text()
    assert "<script" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "expected &lt;b&gt;10 5 3&lt;/b&gt;" in page


def test_page_needs_nothing_from_outside(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|srcset|href)="(?!data:image/png;base64,|#)', page)
    assert all(alt.strip() for alt in re.findall(r'alt="([^"]*)"', page))
    assert page.count("<img ") == page.count('alt="') == 5  # accuracy, KL, reward, two lineages


def test_figures_are_images_and_the_page_carries_the_same(report: Path) -> None:
    page = (report / "index.html").read_text()
    files = sorted(report.glob("*.png"))
    assert len(files) == 10  # five figures, light and dark
    for file in files:
        assert matplotlib.image.imread(file)[..., :3].var() > 1e-4
        assert base64.b64encode(file.read_bytes()).decode() in page
    dark = next(file for file in files if file.name.endswith("accuracy-dark.png"))
    light = dark.with_name(dark.name.replace("-dark", ""))
    assert matplotlib.image.imread(dark)[0, 0, :3].max() < 0.2 < 0.9 < matplotlib.image.imread(light)[0, 0, :3].min()


def test_lineage_nests_prompts_under_their_first_parent(runs: list[Path]) -> None:
    prompts = load_run(runs[0]).prompts
    assert [(p.text, p.born, p.score, p.rank) for p in prompts] == [
        (SEED, 0, 0.1, None),
        (GOOD, 0, 0.6, 2),
        (EVIL, 1, 0.7, 1),
    ]
    assert [p.parents for p in prompts] == [(), (prompt_id(SEED),), (prompt_id(GOOD), prompt_id(SEED))]
    (root,) = lineage_tree(prompts)
    assert (root.prompt.text, [c.prompt.text for c in root.children]) == (SEED, [GOOD])
    assert [(c.prompt.text, c.gist) for c in root.children[0].children] == [(EVIL, "<script>alert(1)</script>")]


def test_a_demonstration_is_told_by_its_first_new_example() -> None:
    def shown(text: str, *parents: str) -> PromptView:
        origin = "demonstration" if parents else "seed"
        return PromptView(prompt_id(text), text, tuple(map(prompt_id, parents)), origin, 1, 0.5, "", None)

    one = "go\n\nExamples:\n\nQuestion: a\nAnswer: 1"
    two = f"{one}\n\nQuestion: b\nAnswer: 2"
    (root,) = lineage_tree([shown("go"), shown(one, "go"), shown(two, one)])
    (first,) = root.children
    assert (root.gist, first.gist, first.children[0].gist) == ("go", "Question: a", "Question: b")


def test_lineage_survives_loops_and_strangers(tmp_path: Path) -> None:
    """A prompt that names itself, a later prompt or one nobody wrote becomes a root of its own."""
    events = [prompt(SEED, 0, 0.1, SEED), prompt(GOOD, 0, 0.2, EVIL, "a stranger"), prompt(EVIL, 1, 0.3, GOOD)]
    view = load_run(write_run(tmp_path, "gepa", 0, events))
    assert [len(p.parents) for p in view.prompts] == [0, 0, 1]
    assert [node.prompt.text for node in lineage_tree(view.prompts)] == [SEED, GOOD]
    build_report([view.path], tmp_path / "out", "A report")


def test_domains_are_kept_apart(tmp_path: Path) -> None:
    first = write_run(tmp_path, "rl", 0, rl_events(), domain="lab/a+b")
    second = write_run(tmp_path, "rl", 0, rl_events(), domain="lab/a-b")
    summary = summary_of([first, second], tmp_path / "out")
    assert list(summary["domains"]) == ["lab/a+b", "lab/a-b"]
    assert len(list((tmp_path / "out").glob("*-reward.png"))) == 2


def test_versions_that_differ_are_both_shown(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, "rl", s, [], commit=f"c{s}", versions={"trl": f"1.{s}"}) for s in (0, 1)]
    summary = summarize([load_run(run) for run in runs])
    assert (summary["commit"], summary["versions"]) == ("c0, c1", {"trl": "1.0 / 1.1"})


def test_a_second_report_replaces_the_first_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    run = write_run(tmp_path, "rl", 0, [])
    out = tmp_path / "out"
    build_report([run], out, "First")
    (run / "events.jsonl").write_text(json.dumps(end(0, 0.5, 0.0, spent(8), [])) + "\n")
    build_report([run], out, "Second")
    assert sorted(file.name for file in out.iterdir()) == ["index.html", "summary.json"]
    assert "Second" in (out / "index.html").read_text()
    assert json.loads((out / "summary.json").read_text())["domains"][DOMAIN]["arms"]["rl"]["accuracy"] == 0.5


def test_closing_table_prints_the_summary(runs: list[Path]) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(closing_table([load_run(run) for run in runs]))
    lines = [line.split() for line in console.export_text().splitlines()]
    cells = [[word for word in line if word not in "│┃"] for line in lines]
    assert [DOMAIN, "Fast-slow", "70.0%", "±", "2.1", "n/a", "0.0200", "50", "100", "30", "100"] in cells
    assert ["Fast", "only", "25.0%*", "n/a", "0.0000", "0", "80", "20", "10"] in cells


def measured(root: Path, arm: str, reward: float, n: int, samples: int, **facts: Any) -> Path:
    """A finished run on `n` test problems."""
    binary = facts.pop("binary", True)
    last = {**end(1, reward, 0.0, spent(8), [SEED]), "n": n, "binary": binary}
    return write_run(root, arm, 0, [*rl_events()[:-1], last], params={"evaluate": {"samples": samples}}, **facts)


def words_of(folders: list[Path], out: Path) -> tuple[str, str]:
    """The closing table and the page, as one line each."""
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(closing_table([load_run(folder) for folder in folders]))
    page = build_report(folders, out, "A report").read_text()
    return " ".join(console.export_text().split()), " ".join(page.split())


def test_a_mean_of_partial_rewards_is_no_accuracy(tmp_path: Path) -> None:
    table, page = words_of([measured(tmp_path, "rl", 0.15, 20, 1, binary=False)], tmp_path / "out")
    assert "mean reward on test problems, mean@1; ± one standard error" in table
    assert "│ 0.150 ± 0.030 │ 20 │" in table
    assert "Test mean reward: slow only 0.150." in page
    assert "± 0.030, n = 20" in page
    assert "mean@1" in page
    assert "mean@4" not in page
    assert "Validation mean reward against learning rollouts" in page


def test_accuracy_is_said_with_the_n_of_the_run(tmp_path: Path) -> None:
    table, page = words_of([measured(tmp_path, "rl", 0.15, 20, 2)], tmp_path / "out")
    assert "accuracy on test problems, mean@2" in table
    assert "│ 15.0% ± 3.0 │ 20 │" in table
    assert "means over seeds, mean@2;" in page


def test_runs_on_unequal_test_problems_are_not_compared(tmp_path: Path) -> None:
    said = "The runs on lab/sort_desc+add_one were measured on unequal test problems (8, 20 of them) and cannot be"
    folders = [measured(tmp_path / "a", "rl", 0.2, 20, 2), measured(tmp_path / "a", "fst", 0.9, 8, 2)]
    table, page = words_of(folders, tmp_path / "out")
    assert said in table
    assert said in page
    assert "Fast-slow first reached" not in page
    others = [measured(tmp_path / "b", arm, 0.2, 20, 2, test_sha256=arm) for arm in ("rl", "fst")]
    assert "unequal test problems and cannot" in words_of(others, tmp_path / "out")[0]
    equal = [measured(tmp_path / "c", arm, 0.2, 20, 2, test_sha256="same") for arm in ("rl", "fst")]
    assert "unequal" not in "".join(words_of(equal, tmp_path / "out"))


def test_what_kept_a_run_from_learning_is_on_the_page(tmp_path: Path) -> None:
    trouble = {"kind": "trouble", "round": 0, "trouble": "zero", "says": "none <of> 9", "samples": ["asked & said"]}
    _, page = words_of([write_run(tmp_path, "rl", 0, [trouble, *rl_events()])], tmp_path / "out")
    assert "What kept slow only, seed 0, from learning" in page
    assert "The run learned in spite of it." in page
    assert "In 1 round: none &lt;of&gt; 9" in page
    assert "asked &amp; said" in page


def test_mistakes_say_what_to_do(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="pass at least one run folder"):
        build_report([], tmp_path / "out", "A report")
    with pytest.raises(RecordError, match="is not a run folder"):
        build_report([tmp_path], tmp_path / "out", "A report")
    with pytest.raises(RecordError, match="arm fst, seed 0 of lab"):
        build_report([runs[0], runs[0]], tmp_path / "out", "A report")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"arm": "fst"}', "lacks domain, seed"),
        ("[]", "lacks arm"),
        (None, "arm 'ppo' is unknown"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    run = write_run(tmp_path, "ppo", 0, [])
    if content is not None:
        (run / "config.json").write_text(content)
    with pytest.raises(RecordError, match=message):
        load_run(run)
