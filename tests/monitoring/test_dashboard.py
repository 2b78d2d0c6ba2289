"""The page, in a real Chromium against a real gateway. D1 what it shows is what is there; D2 it asks nobody else, and
its console stays silent; D3 a diff shows both prompts; D4 a rollback needs an admin's key, and is done with one; D5
hostile text stays text; D6 reports are served from their folder alone; D7 damaged records do not break it; D8 with a
key file its data needs a key; D9 it fits a narrow screen; D10 an alert that nobody answers is amber until its
adaptation begins."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fst.lines import append_line
from fst.monitoring.dashboard import dashboard_routes
from fst.monitoring.dashboard_data import DashboardData, waits
from fst.stages.places import Places
from fst.store.bundle import write_bundle
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from support.browser import CHROMIUM, Page, chromium
from support.gateway_toys import REVERSE, SORT, Place, Running, serving, wait_until

EVIL = "<img src=x onerror=document.title='owned'>"
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")


def entries(place: Place, name: str, prompts: dict[str, list[str]], reward: float) -> str:
    """A release with figures, as the gate leaves it."""
    bundle = place.bundle(name, prompts)
    manifest = {k: v for k, v in bundle.manifest.items() if k != "files"}
    manifest["domains"] = {d: {**facts, "stage": d} for d, facts in manifest["domains"].items()}
    manifest["run"] = {"domain": list(prompts)[-1]}
    manifest["metrics"] = {d: {"reward": reward} for d in prompts}
    evaluation = {d: {"reward": reward, "kl": 0.1} for d in prompts}
    gate = {"verdict": "release", "intervals": {"": {"mean": 0.1, "low": 0.05, "high": 0.15}}, "findings": []}
    documents = {
        "prompts.json": {
            d: {
                "prompts": [
                    {"id": f"{d}{i}", "text": t, "parents": ["s"], "origin": "reflection", "born": 1, "score": 0.9}
                    for i, t in enumerate(texts)
                ],
                "ancestry": [{"id": "s", "text": "solve the task", "parents": [], "origin": "seed", "born": 0}],
            }
            for d, texts in prompts.items()
        },
        "evaluation.json": evaluation,
        "reference.json": bundle.reference(),
        "gate.json": gate,
    }
    return place.release(write_bundle(place.root / "bundles" / f"{name}-r", manifest, documents, None))


def asked(key: str, at: float, domain: str, release: str) -> Request:
    facts = (0.2, release, "production", "p", "question", "answer", (9, 3), 0.01, "stop", 200)
    return Request(key, at, "t", domain, "router", *facts)  # type: ignore[arg-type]


def traffic(place: Place, release: str) -> None:
    log = TrafficLog(place.root / "traffic", LogLimits())
    now = time.time()
    for i in range(60):
        domain = "digits" if i % 2 else EVIL
        at = now - 60 + i
        log.append(asked(f"c{i}", at, domain, release))
        log.append(Feedback(f"c{i}", at, "t", float(i % 3 > 0), None, "", "client"))
    log.close()


def records(place: Place, release: str) -> None:
    folder, now = Places(place.root).monitoring, time.time()
    score = {
        "domain": "digits",
        "signal": "reward",
        "score": 0.3,
        "threshold": 0.2,
        "mean": 0.8,
        "beyond": True,
        "n": 40,
    }
    for i in range(5):
        append_line(
            folder / "windows.jsonl",
            {"at": now - 50 + 10 * i, "channel": "prod", "release": release, "scores": [score]},
        )
    alert = {
        "at": now - 20, "since": now - 30, "kind": "new_domain", "domain": EVIL, "channel": "prod", "release": release,
        "signals": [{"domain": "", "signal": "unlike all domains", "score": 0.2, "threshold": 0.1}], "examples": [EVIL],
    }  # fmt: skip
    append_line(folder / "alerts.jsonl", alert)
    head = {"alert": alert["at"], "domain": EVIL, "channel": "prod"}
    for i, (event, facts) in enumerate(
        [
            ("started", {}),
            ("collected", {"problems": 99}),
            ("judged", {"verdict": "release", "reward": 0.9}),
            ("released", {"bundle": release}),
        ]
    ):
        append_line(folder / "adaptations.jsonl", {"at": now - 15 + i, **head, "event": event, **facts})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("page"))
    entries(place, "first", {"digits": [REVERSE]}, 0.5)
    second = entries(place, "second", {"digits": [SORT], "letters": [EVIL]}, 0.75)
    traffic(place, second)
    records(place, second)
    curves = place.root / "reports" / "curves"
    curves.mkdir(parents=True)
    (curves / "digits.csv").write_text("rollouts,accuracy,kl\n0,0.1,0\n100,0.5,0.1\n200,0.9,0.2\n")
    return place


@contextlib.contextmanager
def page_served(place: Place, **serve: object) -> Iterator[Running]:
    with serving(place, serve=serve, pages=Places(place.root)) as running:
        yield running


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Running]:
    place.key("alice")
    with page_served(place) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.mark.slow
@browser_only
def test_d1_d2_d5_what_it_shows_is_what_is_there(running: Running, browser: Page, place: Place) -> None:
    browser.open(running.url)
    text = browser.run("document.body.innerText")
    channel = place.releases.channel("prod")
    assert "All is well. An alert" in browser.run("document.querySelector('#status').innerText")
    for wanted in (
        "channel prod",
        channel.bundle[:12],
        "digits, letters",
        SORT,
        "from: solve the task",
        "75.0%",
        "50.0%",
    ):  # type: ignore[index]
        assert wanted in text, wanted
    for wanted in (
        "New domain",
        "collected",
        "99 problems",
        "release, reward 90.0%",
        "unlike all domains 0.200 (limit 0.100)",
    ):
        assert wanted in text, wanted
    assert browser.run("document.querySelectorAll('#releases tbody tr').length") == 2
    assert browser.run("document.querySelectorAll('#reward path').length") == 2
    assert browser.run("document.querySelectorAll('#curves circle').length") == 3
    assert EVIL in text, "shown as it was written"
    assert browser.run("document.title") == "Fast-Slow Training, live"
    assert browser.run("document.images.length") == 0
    assert browser.errors == []
    assert browser.hosts == {running.url.removeprefix("http://")}


@pytest.mark.slow
@browser_only
def test_d10_an_alert_that_nobody_answers_is_amber(running: Running, browser: Page, place: Place) -> None:
    folder, at = Places(place.root).monitoring, time.time()
    head = {"channel": "prod", "domain": "digits"}
    append_line(folder / "alerts.jsonl", {"at": at, "since": at, "kind": "drifted", "signals": [], **head})
    browser.open(running.url)
    status = "document.querySelector('#status')"
    assert browser.run(f"{status}.className") == "status waits"
    assert "No adaptation has answered an alert: digits since" in browser.run(f"{status}.innerText")
    append_line(folder / "adaptations.jsonl", {"at": at + 1, "alert": at, "event": "started", **head})
    browser.open(running.url)
    assert browser.run(f"{status}.className") == "status ok"


@pytest.mark.slow
@browser_only
def test_d3_a_diff_shows_both_prompts(running: Running, browser: Page) -> None:
    browser.open(running.url)
    browser.run("document.querySelector('button.diff:not([disabled])').click()")
    browser.wait_for("document.querySelector('#diff').open")
    shown = browser.run("document.querySelector('#diff').innerText")
    assert REVERSE in shown
    assert SORT in shown
    assert "0.75" in shown


@pytest.mark.slow
@browser_only
def test_d9_it_fits_a_narrow_screen_light_and_dark(running: Running, browser: Page, tmp_path: Path) -> None:
    for width, dark in ((400, False), (1360, True)):
        browser.open(running.url, width=width, dark=dark)
        assert browser.run("document.documentElement.scrollWidth") <= width
        browser.shoot(tmp_path / f"{width}.png")
        assert (tmp_path / f"{width}.png").stat().st_size > 20_000
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"


@pytest.mark.slow
@browser_only
def test_d4_a_rollback_needs_an_admins_key(place: Place, browser: Page) -> None:
    admin = place.key("root", admin=True)
    before = place.releases.channel("prod")
    with page_served(place, keys=str(place.root / "keys.json")) as running:
        browser.run("window.prompt = () => ''")
        browser._do("Page.navigate", url="about:blank")
        browser._do("Page.addScriptToEvaluateOnNewDocument", source=f"window.prompt = () => {json.dumps(admin)}")
        browser.open(running.url)
        browser.run("document.querySelector('button.roll').click()")
        browser.wait_for("document.querySelector('#rollback').open")
        for key, says in (("fst-wrong", "no such key"), (admin, "is in force")):
            browser.run(f"document.querySelector('#key').value = {json.dumps(key)}")
            browser.run("document.querySelector('#rollback-do').click()")
            browser.wait_for(f"document.querySelector('#rollback-answer').innerText.includes({json.dumps(says)})")
            if key != admin:
                assert place.releases.channel("prod").bundle == before.bundle
        assert place.releases.channel("prod").bundle == before.before
        assert browser.run("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        wait_until(lambda: running.gateway.live.production.id == before.before, 10)  # type: ignore[union-attr]
    place.releases.rollback("prod", before.bundle)


def alerted(at: float, *steps: tuple[float, str], domain: str = "digits") -> dict[str, object]:
    return {"at": at, "domain": domain, "channel": "prod", "steps": [{"at": a, "event": e} for a, e in steps]}


def test_d10_what_answers_an_alert() -> None:
    """An adaptation that began after it and did not fail, of this alert or a later one; a move of its channel."""
    moved = [{"name": "prod", "moves": [{"at": "1970-01-01T00:00:50+00:00"}]}]
    still = [{"name": "prod", "moves": []}, {"name": "canary", "moves": [{"at": "2100-01-01T00:00:00+00:00"}]}]
    alone = alerted(100)
    assert waits(alone, [alone], still)
    assert waits(alone, [alone], moved), "moved before the alert"
    assert not waits(alerted(40), [alerted(40)], moved)
    for event, waiting in (
        ("started", False),
        ("published", False),
        ("released", False),
        ("refused", False),
        ("failed", True),
    ):
        one = alerted(100, (101, "started"), (102, event))
        assert waits(one, [one], still) == waiting, event
    assert not waits(alone, [alerted(200, (201, "started")), alone], still), "a later one's adaptation is about it too"
    assert waits(alone, [alone, alerted(90, (91, "released"))], still), "an earlier one's is not"
    assert waits(alone, [alone, alerted(100, (101, "released"), domain="letters")], still), "another domain"


def client(place: Place, allowed: bool = True) -> TestClient:
    routes = dashboard_routes(place.params(), Places(place.root), lambda: {"channel": "prod"}, lambda request: allowed)
    return TestClient(Starlette(routes=routes), raise_server_exceptions=True)


def test_d6_reports_come_from_their_folder_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    folder = tmp_path / "reports" / "evidently"
    folder.mkdir(parents=True)
    (folder / "prod-1.html").write_text("<p>report</p>")
    (tmp_path / "reports" / "secret.html").write_text("secret")
    (folder / "notes.txt").write_text("secret")
    (folder / "link.html.txt").write_text("secret")
    page = client(place)
    found = page.get("/reports/evidently/prod-1.html")
    assert found.text == "<p>report</p>"
    assert "sandbox" in found.headers["Content-Security-Policy"]
    for name in (
        "../secret.html",
        "..%2fsecret.html",
        "%2e%2e/secret.html",
        "notes.txt",
        ".html",
        "none.html",
        "link.html.txt",
    ):
        assert "secret" not in page.get(f"/reports/evidently/{name}").text
    for name in ("../../params.yaml", "app.py", "..%2fdashboard.py"):
        assert page.get(f"/dashboard/{name}").status_code == 404


def test_d7_damaged_records_do_not_break_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    folder = Places(tmp_path).monitoring
    folder.mkdir(parents=True)
    (folder / "windows.jsonl").write_text('{"at": 1}\n{"at"')
    (folder / "alerts.jsonl").write_text('[]\n{"kind": "drifted"}\nnull\n')
    (tmp_path / "traffic").mkdir()
    (tmp_path / "traffic" / "traffic-00000001.jsonl").write_text("garbage\n")
    (tmp_path / "reports" / "curves").mkdir()
    (tmp_path / "reports" / "curves" / "x.csv").write_text("a,b\n1,2\n")
    found = client(place).get("/dashboard/data.json").json()
    assert [window["at"] for window in found["drift"]] == [1]
    assert [alert["kind"] for alert in found["alerts"]] == ["drifted"]
    assert found["traffic"] == {}
    assert found["curves"] == {}


def test_d8_with_a_key_file_its_data_needs_a_key(tmp_path: Path) -> None:
    closed = client(Place(tmp_path), allowed=False)
    for path in ("/dashboard/data.json", "/dashboard/diff.json", "/reports/evidently/x.html"):
        assert closed.get(path).status_code == 401
    page = closed.get("/")
    assert page.status_code == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]


def test_rewards_are_means_of_their_bins_and_read_on_from_where_they_were(tmp_path: Path) -> None:
    place = Place(tmp_path)
    data = DashboardData(place.params(), Places(tmp_path))
    log = TrafficLog(tmp_path / "traffic", LogLimits())
    for i, reward in enumerate((1.0, 0.0, 1.0, None)):
        log.append(asked(f"c{i}", 1000.0, "digits", "r"))
        if reward is not None:
            log.append(Feedback(f"c{i}", 1000.5, "t", reward, None, "", "client"))
    assert data.read()["traffic"] == {"digits": [[1000.0, 4, 0.6667, 3]]}
    log.append(Feedback("c3", 1001.0, "t", 1.0, None, "", "client"))
    log.close()
    assert data.read()["traffic"] == {"digits": [[1000.0, 4, 0.75, 4]]}


def test_an_unknown_bundle_has_no_diff(tmp_path: Path) -> None:
    answer = client(Place(tmp_path)).get("/dashboard/diff.json?first=abcdef&second=abcdef")
    assert answer.status_code == 404
    assert "abcdef" in answer.json()["error"]
