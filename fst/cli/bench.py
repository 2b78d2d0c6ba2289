"""`fst bench`: measurements on this machine, and the paper's experiments."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from fst.claims.experiment import Experiment
from fst.claims.plan import CLAIMS
from fst.cli.options import MODEL, SETTINGS, ModelSettings, Settings, Several, lines, terminal
from fst.commandline import goes_on
from fst.extras import require

WIDTH = 180  # columns of the experiments' tables
EXPERIMENT, GOES_ON = Experiment(), "the same command goes on with what is left"
Extent = Annotated[Experiment, Parameter(name="*")]

bench = App(name="bench", help="Measure this machine against the plain libraries, or rerun the paper's experiments.")


@bench.command
def speed(
    *,
    steps: int = 12,
    blocks: int = 3,
    lengths: tuple[int, int, int] | None = None,
    settings: ModelSettings = MODEL,
) -> None:
    """Compare an RL step with plain TRL's: seconds and memory, for the answers and for the training.

    The lab's model is measured on one of the lab's rules, any other model on texts of --lengths (16 64 32 if not
    given).

    Example: fst bench speed --steps 6
    Example: fst bench speed --model models/smollm2 --lengths 256 64 32 --steps 1 --blocks 1 --set model.threads=2

    Args:
        steps: RL steps of each trainer per block.
        blocks: Blocks of each; the two alternate.
        lengths: Tokens of a prompt, of a question and of an answer.
    """
    from fst.bench.speed import Lengths, speed

    params = settings.read()
    if lengths is None and params.model.base != "lab":
        lengths = 16, 64, 32
    lines(speed(params, Lengths(*lengths) if lengths else None, steps, blocks))


@bench.command
def rollouts(*, blocks: int = 7, settings: ModelSettings = MODEL) -> None:
    """Compare the engine's tokens per second with model.generate's, as TRL calls it.

    Example: fst bench rollouts
    Example: fst bench rollouts --model models/smollm2 --blocks 1 --set model.threads=2

    Args:
        blocks: Blocks of each; the two alternate.
    """
    params = settings.read()
    from fst.bench.rollouts import rollouts

    lines(rollouts(params, blocks))


@bench.command
def gateway(*, seconds: float = 5.0, minutes: float = 0.0, settings: Settings = SETTINGS) -> None:
    """Measure what the gateway costs over the engine alone.

    With --minutes, also run a soak test: load while releases come and go and the engine is killed.

    Example: fst bench gateway --minutes 10

    Args:
        seconds: Length of each measurement.
        minutes: Length of the soak test; 0 for none.
    """
    require("serving")
    params = settings.read()
    from fst.bench.gateway import serve

    lines(serve(params, seconds, minutes))


@bench.command
def drift(*, windows: int = 200, trials: int = 40, settings: Settings = SETTINGS) -> None:
    """Count the watcher's false alarms and detections, on simulated traffic of the lab.

    Example: fst bench drift

    Args:
        windows: Windows without drift.
        trials: Trials of each detection.
    """
    require("monitoring")
    from fst.bench.drift import drift_table

    lines(drift_table(settings.read().drift, windows, trials))


@bench.command
def router() -> None:
    """Count known texts that are called unknown and unknown texts that are missed, for several measures.

    The sets of texts are puzzles of reasoning_gym and texts that people wrote; each is left out in turn.

    Example: fst bench router
    """
    require("serving")
    require("reasoning-gym")
    from fst.bench.measures import MEASURES
    from fst.bench.router import router_table

    lines(router_table(MEASURES))


@bench.command
def poison(
    *,
    train: bool = False,
    trials: int | None = None,
    scored: int = 400,
    settings: Settings = SETTINGS,
) -> None:
    """Count how much of one tenant's false feedback becomes training data, and who is named for it.

    Traffic and answers are simulated, and no model is trained. With --train, a release of the lab answers and adapts
    to a domain that is new to it.

    Example: fst bench poison
    Example: fst bench poison --train --set loop.cycles=4

    Args:
        train: Train a release (4 minutes on a free core; 2 with --set loop.cycles=4), then adaptations (1 minute each),
            and measure what they released. Everything is in a temporary folder.
        trials: Adaptations for each of the four shares of false feedback; 20, or 1 with --train, if not given.
        scored: Requests whose right answer is told in each.
    """
    require("monitoring")
    params = settings.read()
    if train:
        from fst.bench.poisoned import poisoned

        return lines(poisoned(params, trials or 1, scored))
    from fst.bench.poison import poison

    lines(poison(params, trials or 20, scored))


@bench.command
def proposals(*, trials: int = 2000, settings: Settings = SETTINGS) -> None:
    """Count how many proposals of a fast round are scored on all anchors, on simulated rewards.

    Example: fst bench proposals --params params/qwen3-8b.yaml

    Args:
        trials: Proposals of each kind.
    """
    from fst.bench.proposals import proposals_table

    lines(proposals_table(settings.read().fast, trials))


@bench.command(help_epilogue="\n".join(("Claims:", *(f"  {name}  {text}" for name, text in CLAIMS.items()))))
@goes_on(GOES_ON)
def claims(
    *claims: str,
    domains: Annotated[tuple[str, ...], Several] = (),
    seeds: Annotated[tuple[int, ...], Several] = (),
    rollouts: int | None = None,
    extent: Extent = EXPERIMENT,
    settings: Settings = SETTINGS,
) -> None:
    """Rerun the paper's experiments, and state which of its claims hold.

    Example: fst bench claims C1 C7 --budget small

    Args:
        claims: Which claims, see below; all if none is given.
        domains: Domain specs; the plan's own three (small: the first) if not given.
        seeds: Seeds; those of the budget if not given: 20 to 24 (small: 20 and 21).
        rollouts: Rollouts that a run may learn from, with all else in proportion; for models that need more than the
            budget.
    """
    from fst.claims.page import tables

    rows, page = extent.claims(settings.read(), claims, domains, seeds, rollouts)
    terminal(WIDTH).print(*tables(rows))
    print(f"report: {page}")


@bench.command
@goes_on(GOES_ON)
def ablations(
    *,
    domains: Annotated[tuple[str, ...], Several] = (),
    seeds: Annotated[tuple[int, ...], Several] = (),
    variants: Annotated[tuple[str, ...], Several] = (),
    extent: Extent = EXPERIMENT,
    settings: Settings = SETTINGS,
) -> None:
    """Train FST with one thing changed, on rules reserved for choosing defaults.

    The things changed are T, K, carrying the population over, who reflects, what reflection reads, looking for signal,
    balance and reuse (`loop.signal`, `loop.balance`, `loop.reuse`).

    Example: fst bench ablations --budget small
    Example: fst bench ablations --domains lab/reverse lab/sort_asc --seeds 30 31 --variants "as it is" reuse

    Args:
        domains: Domain specs; the lab's `tune` rules if not given.
        seeds: Seeds; those of the budget if not given.
        variants: Names of what is changed ("as it is": nothing); everything if not given.
    """
    from fst.claims.ablations import table

    terminal(WIDTH).print(table(extent.ablations(settings.read(), domains, seeds, variants)))
