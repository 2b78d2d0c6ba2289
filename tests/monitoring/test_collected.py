"""From an alert to a plan. C1 the plan is made of the domain's scored requests since the alert's time, and of no
others; C2 too few of them are an error that says how many there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fst.errors import DataError
from fst.monitoring.collected import plan_adaptation
from fst.traffic.log import Feedback, LogLimits, Request, TrafficLog
from support.release_toys import PARAMS, ToyProject


def test_c1_c2_a_plan_from_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = ToyProject(tmp_path, PARAMS + "adapt: {min_problems: 40}\n")
    project.release(project.candidate("zeta", project.base(), 0.9))
    log = TrafficLog(tmp_path / "traffic", LogLimits())
    for i in range(100):
        domain = "zeta" if i % 2 else "alpha"
        facts = (0.1, "r", "production", "p", f"question {i}", "x", (9, 6), 0.1, "stop", 200)
        log.append(Request(f"i{i}", float(i), "t", domain, "router", *facts))  # type: ignore[arg-type]
        log.append(Feedback(f"i{i}", float(i), "t", 1.0, f"answer {i}", "", "client"))
    log.close()
    found = plan_adaptation(project.params, project.places, "zeta", "prod", since=10.0)
    assert (found.domain, found.problems, found.start, found.channel) == ("zeta", 45, "zeta", "prod")
    lines = (tmp_path / found.data).read_text().splitlines()
    assert [f'"question {i}"' in "".join(lines) for i in (9, 10, 11, 99)] == [False, False, True, True]
    with pytest.raises(DataError, match=r"zeta: 20 questions .* asks for 40"):
        plan_adaptation(project.params, project.places, "zeta", "prod", since=60.0)
