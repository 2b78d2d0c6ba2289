"""An experiment from its plan to its results: what `fst bench claims` and `fst bench ablations` do."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fst.errors import ConfigError

if TYPE_CHECKING:
    from fst.claims.ablations import Outcome
    from fst.claims.rows import Row
    from fst.config import Params

REPORTS = Path("reports/claims")
FULL = ("full", "ablations")  # sizes whose results lie there, and are kept with the project


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """How much is run, where it is recorded, and where the results go. Imports are inside, as a command line reads the
    fields' descriptions."""

    budget: Literal["small", "full"] = "small"
    """small shows the direction (at most 15 minutes on two cores); full takes hours."""
    jobs: int | None = None
    """Runs at once; one per core if not given."""
    runs: Path = Path("runs/claims")
    """Records of all runs."""
    out: Path | None = None
    """Results; reports/claims if not given, or a folder in it for another budget than full."""

    def claims(
        self, params: Params, names: Sequence[str], domains: Sequence[str], seeds: Sequence[int], rollouts: int | None
    ) -> tuple[list[Row], Path]:
        """Run what the claims need and judge them; empty `names`, `domains` or `seeds` stand for the plan's own, and
        `rollouts` replaces the budget's. Returns the judgements and the page that holds them. Raises FstError."""
        from fst.claims.evidence import gather, made
        from fst.claims.judge import judge
        from fst.claims.page import write
        from fst.claims.plan import CLAIMS, DOMAINS, SIZES, plan
        from fst.claims.run import cores, run_all

        size = SIZES[self.budget]
        if rollouts is not None:
            if rollouts < params.rollouts_per_step:
                raise ConfigError(f"--rollouts {rollouts}: one RL step takes {params.rollouts_per_step}")
            size = size.scaled(rollouts)
        names = list(dict.fromkeys(names or CLAIMS))
        domains, seeds = domains or DOMAINS[: size.domains], seeds or size.seeds
        if len(set(seeds)) != len(seeds) or len(set(domains)) != len(domains):
            raise ConfigError("--domains, --seeds: each only once")
        works = plan(names, domains, seeds)
        out, folder = self._results(domains, size.name), self.runs / size.name
        run_all(works, params, size, folder, self.jobs or cores())
        evidence = gather(works, folder)
        rows = judge(names, domains, evidence)
        return rows, write(out, rows, evidence, _about(size.name, seeds, made(works, folder)))

    def ablations(
        self, params: Params, domains: Sequence[str], seeds: Sequence[int], variants: Sequence[str]
    ) -> list[Outcome]:
        """Train FST with one setting, or one set of them, changed at a time (empty `variants`: each of them), and write
        ablations.json. Raises FstError."""
        from fst.claims.ablations import DOMAINS, SIZES, chosen, outcomes, plan
        from fst.claims.evidence import gather, made
        from fst.claims.plan import VARIANTS
        from fst.claims.run import cores, run_all
        from fst.files import document, write_atomic

        size, variants = SIZES[self.budget], chosen(variants)
        domains, seeds = domains or DOMAINS[: size.domains], seeds or size.seeds
        if any(len(set(given)) != len(given) for given in (domains, seeds, variants)):
            raise ConfigError("--domains, --seeds, --variants: each only once")
        if self.out is None and size.name in FULL and set(variants) != set(VARIANTS):
            raise ConfigError(f"--variants: give --out as well, since {REPORTS} holds the results of all variants")
        out, folder = self._results(domains, size.name), self.runs / size.name
        works = plan(domains, seeds, variants)
        run_all(works, params, size, folder, self.jobs or cores())
        found = outcomes(domains, variants, gather(works, folder))
        about = _about(self.budget, seeds, made(works, folder))
        write_atomic(out / "ablations.json", document({"about": about, "outcomes": [o.as_dict() for o in found]}))
        return found

    def _results(self, domains: Sequence[str], size: str) -> Path:
        """The folder of the results. Raises FstError for what would otherwise be found out after hours."""
        from fst.data.domains import load_domain
        from fst.data.types import SplitSizes

        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"--jobs {self.jobs}: at least 1")
        for spec in domains:
            load_domain(spec, SplitSizes(1, 1, 1), 0)
        out = self.out or (REPORTS if size in FULL else REPORTS / size)
        for option, folder in (("runs", self.runs), ("out", out)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise ConfigError(f"--{option} {folder}: cannot be made a folder ({exc.strerror})") from exc
        return out


def _about(budget: str, seeds: Sequence[int], made: dict[str, str]) -> dict[str, str]:
    """Where the figures come from."""
    from fst.runs.origin import commit

    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    told = {"budget": budget, "seeds": ", ".join(map(str, seeds))}
    return {**told, **made, "judged by commit": commit(), "machine": machine}
