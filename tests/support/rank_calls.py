"""One process of several: what `ranks.of_first` and `ranks.share` do there, saved as JSON.

python -m support.rank_calls OUT        under torchrun's environment
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed

from fst.errors import EngineError
from fst.method.run import ranks


class Engine:
    """An engine that says by which address it was joined."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def ready(self) -> str:
        self.calls.append("ready")
        return f"http://rank-{ranks.rank()}"

    def join(self, address: str) -> None:
        self.calls.append(f"join {address}")


def main(out: str) -> None:
    torch.distributed.init_process_group("gloo")
    done: list[str] = []

    class Unsendable(Exception):
        """Of a class that other processes cannot import."""

    def work(name: str, result: Any) -> Any:
        done.append(name)
        if isinstance(result, Exception):
            raise result
        return result

    found: dict[str, Any] = {"value": ranks.of_first(lambda: work("value", {"rank": ranks.rank(), "draws": (1, 2)}))}
    for name, error in {"known": EngineError("the server ended"), "unsendable": Unsendable("no room")}.items():
        try:
            ranks.of_first(lambda name=name, error=error: work(name, error))  # type: ignore[misc]
        except Exception as exc:
            found[name] = [type(exc).__name__, str(exc)]
    engine = Engine()
    ranks.share(engine)  # type: ignore[arg-type]
    try:
        ranks.agree(ranks.rank() // 2, "halves")
        ranks.agree(ranks.rank(), "ranks")
    except ranks.RanksDisagree as exc:
        found["disagree"] = str(exc)
    ranks.wait()
    found |= {"done": done, "engine": engine.calls}
    (Path(out) / f"rank-{ranks.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
