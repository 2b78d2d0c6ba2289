"""The lab's base model, and what this machine lacks."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from fst.commandline import goes_on

lab_base = App(name="lab-base", help="Make the lab's base model, or measure what it can do.")


def doctor() -> None:
    """List what is missing, what it is needed for, and how to get it.

    Example: fst doctor
    """
    from rich.console import Console

    from fst.cli.doctor import diagnose, render

    Console().print(render(diagnose()))


@lab_base.command
@goes_on("the same command goes on where it was cut off")
def build(*, out: Path | None = None, steps: int | None = None) -> None:
    """Pretrain the lab's base model from scratch; about an hour on two cores.

    Example: fst lab-base build --out my_base

    Args:
        out: Folder to write; the one that ships if not given.
        steps: Fewer training steps, to try it out.
    """
    import dataclasses
    import json

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from fst.checkout import LAB_BASE
    from fst.models.lab.pretrain import PretrainConfig, pretrain

    config = PretrainConfig() if steps is None else dataclasses.replace(PretrainConfig(), steps=steps)
    columns = (TextColumn("pretraining"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=config.steps)

        def report(step: int, following: float, induction: float, tokens: int) -> None:
            losses = f"following {following:.3f}  induction {induction:.3f}"
            text = f"step {step}/{config.steps}  {losses}  {tokens / 1e6:.1f}M tokens"
            bar.update(task, completed=step, description=text)

        facts = pretrain(config, out or LAB_BASE, report)
    print(json.dumps(facts))


@lab_base.command
def card(*, model: str = "lab") -> None:
    """Measure what the base model can do: the lab card, as a Markdown table.

    Example: fst lab-base card

    Args:
        model: `lab`, or the folder of another base model of the lab.
    """
    from rich.console import Console

    from fst.config import ModelParams
    from fst.models.lab.card import markdown, measure_card
    from fst.models.policy import load_policy

    console = Console(stderr=True)
    policy = load_policy(ModelParams(base=model, max_new_tokens=16))
    print(markdown(measure_card(policy, report=lambda kind: console.print(f"measuring {kind} …"))))
