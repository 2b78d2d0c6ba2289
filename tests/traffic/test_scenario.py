"""Traffic scenarios. N1 requests come at the phase's rate, in its mix, with its share of feedback; N2 the same seed
asks the same; N3 no question comes twice while there are others; N4 mistakes are named by file and key; N5 a
gateway that falls behind has a bounded number of requests to answer."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from fst.errors import DataError
from fst.traffic import simulate
from fst.traffic.scenario import load_scenario
from fst.traffic.simulate import Exchanged, Target, replay

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "scenarios" / "new_domain.yaml"
VALUES: dict[str, Any] = {
    "seed": 3,
    "domains": {"digits": {"spec": "lab/reverse"}, "letters": {"spec": "lab/letters:reverse", "named": True}},
    "phases": [
        {"seconds": 20, "rate": 20, "mix": {"digits": 1}, "feedback": 0},
        {"seconds": 30, "rate": 10, "mix": {"digits": 1, "letters": 3}, "feedback": 0.5},
    ],
}


def written(folder: Path, values: Any) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_n1_rate_mix_and_feedback_are_those_of_the_phase(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, VALUES))
    assert scenario.seconds == 50
    arrivals = list(scenario.arrivals())
    first, second = ([a for a in arrivals if a.phase == phase] for phase in (0, 1))
    assert abs(len(first) - 400) < 80  # four standard deviations of a Poisson count
    assert abs(len(second) - 300) < 70
    assert {a.domain for a in first} == {"digits"}
    assert not any(a.told for a in first)
    assert 0.65 < Counter(a.domain for a in second)["letters"] / len(second) < 0.85
    assert 0.38 < sum(a.told for a in second) / len(second) < 0.62
    assert all(0 < a.moment < 20 for a in first)
    assert all(20 < a.moment < 50 for a in second)
    assert [a.moment for a in arrivals] == sorted(a.moment for a in arrivals)


def test_what_a_domain_asks_may_be_said_in_words(tmp_path: Path) -> None:
    domains = {"digits": {"spec": "lab/reverse", "instruction": "turn the list round"}, "letters": {"spec": "lab/sort"}}
    values = {**VALUES, "domains": domains}
    found = load_scenario(written(tmp_path, values)).domains
    assert (found["digits"].instruction, found["letters"].instruction) == ("turn the list round", "")


def test_n2_n3_the_same_seed_asks_the_same_and_questions_do_not_repeat(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, VALUES))
    asked = [(a.moment, a.problem.question, a.told) for a in scenario.arrivals()]
    assert asked == [(a.moment, a.problem.question, a.told) for a in scenario.arrivals()]
    other = dataclasses.replace(scenario, seed=4)
    assert asked != [(a.moment, a.problem.question, a.told) for a in other.arrivals()]
    assert len({question for _, question, _ in asked}) == len(asked)


def test_a_prolonged_scenario_asks_on_in_its_last_phase(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, VALUES))
    longer = scenario.prolonged(90)
    assert [phase.seconds for phase in longer.phases] == [*(p.seconds for p in scenario.phases[:-1]), 90]
    assert longer.prolonged(10) == longer, "it is never cut"
    moments = [a.moment for a in scenario.arrivals()]
    assert [a.moment for a in longer.arrivals()][: len(moments)] == moments
    assert {a.phase for a in longer.arrivals()} == {a.phase for a in scenario.arrivals()}


def test_n5_no_more_requests_than_the_limit_wait_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "IN_FLIGHT", 5)
    values = {**VALUES, "phases": [{"seconds": 0.2, "rate": 200, "mix": {"digits": 1}, "feedback": 0}]}
    scenario = load_scenario(written(tmp_path, values))
    waiting, most, heard = 0, 0, list[Exchanged]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"length: ")[1].split()[0]))
        waiting += 1
        most = max(most, waiting)
        if waiting == 5:
            full.set()
        await full.wait()  # nobody is answered before the limit is reached
        waiting -= 1
        said = b'{"choices": [{"message": {"content": "1"}}]}'
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(said), said))
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await replay(scenario, Target(f"http://127.0.0.1:{port}"), heard.append)
        server.close()

    full = asyncio.Event()
    asyncio.run(run())
    assert most == 5
    assert len(heard) == len(list(scenario.arrivals())) > 20
    assert {one.status for one in heard} == {200}


def test_the_shipped_scenario_begins_without_its_newcomer() -> None:
    scenario = load_scenario(SHIPPED)
    assert set(scenario.phases[0].mix) < set(scenario.domains)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("seed",), "x", "seed: expected int, found 'x'"),
        (("domains", "digits"), {"named": True}, "domains.digits.spec: is missing"),
        (("domains", "digits", "nmed"), True, "domains.digits.nmed: unknown key; known: spec, named"),
        (("phases", 0, "mix", "greek"), 1, "phases[0].mix.greek: no such domain; known: digits, letters"),
        (("phases", 0, "rate"), 0, "phases[0]: seconds, rate and the mix's shares are above 0"),
        (("phases", 1, "feedback"), 2, "phases[1].feedback: 2.0 is no share"),
        (("phases", 1, "mix"), {"digits": "half"}, "phases[1].mix.digits: expected a number"),
        (("phases",), [], "at least one domain and one phase"),
        (("phases", 0), 7, "phases[0]: expected a mapping"),
    ],
)
def test_n4_mistakes_are_named_by_file_and_key(tmp_path: Path, path: Any, value: Any, message: str) -> None:
    values = copy.deepcopy(VALUES)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = written(tmp_path, values)
    with pytest.raises(DataError) as found:
        load_scenario(file)
    assert str(found.value).startswith(f"{file}: ")
    assert message in str(found.value)


def test_n4_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.yaml: no scenario can be read"):
        load_scenario(tmp_path / "nothing.yaml")
