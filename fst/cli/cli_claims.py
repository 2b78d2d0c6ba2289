"""The command that reruns the paper's experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fst.claims.plan import CLAIMS, DOMAINS, SIZES
from fst.cli.cli_pipeline import add_params_options

Says = Callable[[str, str], dict[str, Any]]


def add_claims_command(kinds: Any, says: Says) -> None:
    """Add the parser to the kinds of `fst bench`."""
    told = "; ".join(f"{claim} {text}" for claim, text in CLAIMS.items())
    claims = kinds.add_parser(
        "claims",
        **says(f"rerun the paper's experiments and state what holds: {told}", "bench claims C1 C7 --budget small"),
    )
    claims.add_argument("claims", nargs="*", metavar="C1..C8", help="which (default: all)")
    claims.add_argument("--domains", nargs="+", help=f"specs (default, full: {' '.join(DOMAINS)}; small: the first)")
    seeds = "; ".join(f"{name}: {' '.join(map(str, size.seeds))}" for name, size in SIZES.items())
    claims.add_argument("--seeds", nargs="+", type=int, help=f"(default, {seeds})")
    claims.add_argument(
        "--budget",
        choices=sorted(SIZES),
        default="small",
        help="small: the direction, at most 15 minutes on two cores; full: at most 3 hours (default: %(default)s)",
    )
    claims.add_argument(
        "--rollouts",
        type=int,
        metavar="N",
        help="that an arm's run may learn from, all else in proportion; for models that need more (default, "
        f"{'; '.join(f'{name}: {size.rollouts}' for name, size in SIZES.items())})",
    )
    _add_common(claims)
    ablations = kinds.add_parser(
        "ablations",
        **says(
            "FST with one thing changed (T, K, carrying the population over, who reflects, what reflection reads), on "
            "rules that are there to choose defaults by; writes ablations.json",
            "bench ablations --budget small",
        ),
    )
    ablations.add_argument("--domains", nargs="+", help="specs (default: rules of the lab's `tune`)")
    ablations.add_argument("--seeds", nargs="+", type=int)
    ablations.add_argument("--budget", choices=("full", "small"), default="small")
    _add_common(ablations)


def _add_common(parser: Any) -> None:
    parser.add_argument("--jobs", type=int, help="runs at once (default: one a core)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/claims"), help="records of all runs (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, help="(default: reports/claims; of another budget than full, a folder of its name there)"
    )
    parser.set_defaults(again="the same command goes on with what is left")
    add_params_options(parser)
