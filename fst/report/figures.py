"""The report's figures, drawn twice: once for light pages, once for dark ones. The only room of matplotlib."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fst.report.wording import ACCURACY, mean_at, quantity
from fst.runs.view import ARM_NAMES, RunView, mean_curve, number
from fst.types import ARMS

# Okabe and Ito's palette (safe for the common colour-vision deficiencies), lightened for dark pages.
# Arms also differ by line style and marker, so a grey print can be read.
COLOURS: dict[str, dict[str, str]] = {
    "light": dict(zip(ARMS, ["#0072b2", "#d55e00", "#009e73", "#8a6d00", "#5b5fc7", "#7a4b2a"], strict=True)),
    "dark": dict(zip(ARMS, ["#56b4e9", "#f0884a", "#2fc596", "#d9b64a", "#a3a6f5", "#c99b78"], strict=True)),
}
LINES: dict[str, Any] = {"fst": "-", "rl": (0, (5, 2)), "gepa": (0, (1.5, 1.5))}
LINES |= {"rl_gepa": (0, (5, 2, 1.5, 2)), "gepa_rl": (0, (1.5, 1.5, 5, 1.5)), "distill": "-"}
MARKERS = {"fst": "o", "rl": "s", "gepa": "^", "rl_gepa": "D", "gepa_rl": "v", "distill": "P"}
MEMBER = {"light": "#b0467f", "dark": "#e590c0"}
INK = {"light": "#33373d", "dark": "#c9ced6"}
GRID = {"light": "#e3e5e8", "dark": "#33383f"}
PAPER = {"light": "#ffffff", "dark": "#191c20"}

Arms = dict[str, list[RunView]]
Draw = Callable[[Axes, str], None]


@dataclass(frozen=True)
class Figure:
    """A figure of the report; `png` holds one image a theme (light, dark), `run` the arm and seed when the
    figure is of one run alone."""

    domain: str
    kind: str
    stem: str
    title: str
    caption: str
    alt: str
    png: dict[str, bytes]
    run: str = ""

    def file(self, theme: str) -> str:
        return f"{self.stem}.png" if theme == "light" else f"{self.stem}-{theme}.png"


def draw_figures(grouped: dict[str, Arms]) -> list[Figure]:
    """Every figure that the runs have data for: per domain the learning curves, KL against accuracy and
    the reward of each RL step; per run the lineage of its prompts."""
    figures = []
    for domain, arms in grouped.items():
        stem = _stem(domain)
        evaluated = {arm: runs for arm, runs in arms.items() if any(run.curve() for run in runs)}
        trained = {arm: runs for arm, runs in arms.items() if _rewards(runs)}
        if evaluated:
            figures.append(_accuracy(domain, stem, evaluated))
            figures.append(_kl(domain, stem, evaluated))
        if trained:
            figures.append(_reward(domain, stem, trained))
        for arm, runs in arms.items():
            figures += [_lineage(domain, f"{stem}-{arm}-{run.seed}", run) for run in runs if len(run.prompts) > 1]
    return figures


def _accuracy(domain: str, stem: str, arms: Arms) -> Figure:
    what, label, share = _validation(arms)

    def draw(axes: Axes, theme: str) -> None:
        _curves(axes, theme, arms, "learning", "accuracy")
        axes.set_xlabel("learning rollouts (train + fast)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_ylabel(label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: share(y)))

    ends = [f"{ARM_NAMES[arm]} {_last(runs)}" for arm, runs in arms.items()]
    return _figure(
        (domain, "accuracy", stem),
        f"Validation {what} against learning rollouts",
        "Thick: mean over seeds. Thin: each seed. Further left for the same height is better.",
        f"Line chart of validation {what} against learning rollouts; last values: {'; '.join(ends)}.",
        draw,
    )


def _validation(arms: Arms) -> tuple[str, str, Callable[[float], str]]:
    """What the runs' evaluations measure, the label of its axis, and how a value is written there."""
    runs = [run for of_arm in arms.values() for run in of_arm]
    what = quantity(runs)
    label = f"validation {what} ({mean_at(runs)})"
    return what, label, (lambda value: f"{100 * value:.0f}%") if what == ACCURACY else "{:g}".format


def _kl(domain: str, stem: str, arms: Arms) -> Figure:
    what, label, share = _validation(arms)

    def draw(axes: Axes, theme: str) -> None:
        _curves(axes, theme, arms, "accuracy", "kl")
        axes.set_xlabel(label)
        axes.set_ylabel("KL from the base (nats a token)")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: share(x)))

    ends = [f"{ARM_NAMES[arm]} {curve[-1].kl:.4f}" for arm, runs in arms.items() if (curve := mean_curve(runs))]
    return _figure(
        (domain, "kl", stem),
        f"KL from the base against {what}",
        "How far the weights moved for what was learned. Lower for as much learned is better.",
        f"Line chart of KL from the base model against {what}; last KL, nats a token: {'; '.join(ends)}.",
        draw,
    )


def _reward(domain: str, stem: str, arms: Arms) -> Figure:
    def draw(axes: Axes, theme: str) -> None:
        for arm, runs in arms.items():
            colour, by_step = COLOURS[theme][arm], _rewards(runs)
            for run in runs:
                rewards = _rewards([run])
                axes.plot(list(rewards), list(rewards.values()), color=colour, lw=0.8, alpha=0.4)
            axes.plot(list(by_step), _smooth(list(by_step.values())), color=colour, lw=2.2, ls=LINES[arm])
            axes.plot([], [], color=colour, lw=2.2, ls=LINES[arm], label=ARM_NAMES[arm])
        axes.set_xlabel("RL step")
        axes.set_ylabel("mean reward of the step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))

    ends = [f"{ARM_NAMES[arm]} {_smooth(list(_rewards(runs).values()))[-1]:.3f}" for arm, runs in arms.items()]
    return _figure(
        (domain, "reward", stem),
        "Reward of each RL step",
        "Thick: mean over seeds and the last five steps. Thin: each seed, as it was.",
        f"Line chart of the mean training reward of each RL step; last five steps: {'; '.join(ends)}.",
        draw,
    )


def _lineage(domain: str, stem: str, run: RunView) -> Figure:
    """x: the round a prompt was born in; children hang below their first parent, so edges rarely cross."""
    prompts = {prompt.id: prompt for prompt in run.prompts}
    children: dict[str, list[str]] = {}
    for prompt in run.prompts:
        children.setdefault(prompt.parents[0] if prompt.parents else "", []).append(prompt.id)
    order: list[str] = []
    stack = list(reversed(children.get("", [])))
    while stack:
        order.append(stack.pop())
        stack += reversed(children.get(order[-1], []))
    at = {key: (prompts[key].born, -row) for row, key in enumerate(order)}

    def draw(axes: Axes, theme: str) -> None:
        for prompt in run.prompts:
            for rank, parent in enumerate(prompt.parents):
                (x0, y0), (x1, y1) = at[parent], at[prompt.id]
                style: Any = "-" if rank == 0 else (0, (2, 2))
                axes.plot([x0, x0, x1], [y0, y1, y1], color=INK[theme], lw=0.9, alpha=0.45, ls=style, zorder=1)
        nodes = [(prompt, at[prompt.id]) for prompt in run.prompts]
        scored = axes.scatter(
            [x for _, (x, _) in nodes],
            [y for _, (_, y) in nodes],
            c=[prompt.score or 0.0 for prompt, _ in nodes],
            cmap=colormaps["cividis"],
            s=[130 if prompt.rank else 55 for prompt, _ in nodes],
            edgecolors=[MEMBER[theme] if prompt.rank else INK[theme] for prompt, _ in nodes],
            linewidths=[2.2 if prompt.rank else 0.6 for prompt, _ in nodes],
            zorder=2,
        )
        for prompt, spot in nodes:
            if prompt.rank:
                text = f"#{prompt.rank}  {prompt.score or 0.0:.2f}"
                axes.annotate(text, spot, (9, 0), textcoords="offset points", va="center", color=INK[theme], size=10)
        bar = axes.figure.colorbar(scored, ax=axes, pad=0.02, aspect=30)
        bar.set_label("mean reward on anchors", color=INK[theme])
        bar.ax.tick_params(colors=INK[theme], length=0)
        axes.set_xlabel("round of birth")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.margins(x=0.1)
        axes.set_yticks([])

    members = sum(1 for prompt in run.prompts if prompt.rank)
    return _figure(
        (domain, "lineage", stem),
        f"Lineage of the prompts: {ARM_NAMES[run.arm]}, seed {run.seed}",
        "Each dot a prompt, joined to its parents; ringed and numbered: the last population, best first.",
        f"Tree of {len(prompts)} prompts by round of birth; {members} are in the last population. "
        "The list below holds the same as text.",
        draw,
        run=f"{run.arm}-{run.seed}",
        height=min(9.0, 1.7 + 0.24 * len(prompts)),
    )


def _curves(axes: Axes, theme: str, arms: Arms, x: str, y: str) -> None:
    for arm, runs in arms.items():
        colour = COLOURS[theme][arm]
        for run in runs:
            curve = run.curve()
            axes.plot([getattr(p, x) for p in curve], [getattr(p, y) for p in curve], color=colour, lw=0.8, alpha=0.4)
        line = mean_curve(runs)
        xs, ys = [getattr(p, x) for p in line], [getattr(p, y) for p in line]
        axes.plot(xs, ys, color=colour, lw=2.2, ls=LINES[arm], marker=MARKERS[arm], ms=4.5, label=ARM_NAMES[arm])


def _figure(
    key: tuple[str, str, str], title: str, caption: str, alt: str, draw: Draw, *, run: str = "", height: float = 3.8
) -> Figure:
    domain, kind, stem = key
    png = {theme: _render([draw], theme, height) for theme in PAPER}
    return Figure(domain, kind, f"{stem}-{kind}", title, caption, alt, png, run)


def draw_one(key: tuple[str, str, str], title: str, caption: str, alt: str, draw: Draw) -> Figure:
    """A figure of its own, in the report's style; `key` is (domain, kind, stem of the file)."""
    return _figure(key, title, caption, alt, draw, height=4.4)


def draw_row(key: tuple[str, str, str], title: str, panels: Mapping[str, Draw]) -> Figure:
    """Figures side by side, with their own titles, one legend and one upright axis."""
    png = {theme: _render(list(panels.values()), theme, 3.9, list(panels)) for theme in PAPER}
    domain, kind, stem = key
    return Figure(domain, kind, f"{stem}-{kind}", title, "", title, png)


def _render(draws: Sequence[Draw], theme: str, height: float, titles: Sequence[str] = ()) -> bytes:
    size = (6.2 if len(draws) == 1 else 4.4 * len(draws), height)
    canvas = Canvas(figsize=size, dpi=160, layout="constrained", facecolor=PAPER[theme])
    FigureCanvasAgg(canvas)
    for i, draw in enumerate(draws):
        axes = canvas.add_subplot(1, len(draws), i + 1, facecolor=PAPER[theme])
        _dress(axes, theme)
        draw(axes, theme)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK[theme], size=11.5)
        if titles:
            axes.set_title(titles[i], color=INK[theme], fontsize=12, loc="left")
        if i:
            axes.set_ylabel("")
        elif axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=INK[theme], handlelength=3.2, fontsize=11)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _dress(axes: Axes, theme: str) -> None:
    axes.grid(color=GRID[theme], lw=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID[theme])
    axes.tick_params(colors=INK[theme], length=0, labelsize=11)


def _rewards(runs: list[RunView]) -> dict[int, float]:
    """Step -> mean reward over the runs that took it."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for event in run.steps:
            reward = number(event["reward"])
            if reward is not None:
                found.setdefault(event["step"], []).append(reward)
    return {step: sum(values) / len(values) for step, values in sorted(found.items())}


def _smooth(values: list[float], window: int = 5) -> list[float]:
    return [sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1)) for i in range(len(values))]


def _last(runs: list[RunView]) -> str:
    curve = mean_curve(runs)
    if not curve:
        return "no value"
    mean = f"{100 * curve[-1].accuracy:.1f}%" if quantity(runs) == ACCURACY else f"{curve[-1].accuracy:.3f}"
    return f"{mean} after {curve[-1].learning:,.0f} rollouts"


def _stem(domain: str) -> str:
    """A file name for a domain spec; the digest keeps specs apart that differ only in punctuation."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", domain).strip("-").lower()[:40]
    return f"{slug or 'domain'}-{hashlib.sha256(domain.encode()).hexdigest()[:4]}"
