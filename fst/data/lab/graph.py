"""Star graphs: arms that leave one start node; the task is the path from the start to a goal leaf.

Every node but the start has exactly one edge in, so walking back from the goal copies one edge at a time,
while walking forward has to guess the arm (the cold-start task of the paper, claim C6). The base model
knows walking back and knows reversing; their composition, the path itself, is held out of its pretraining.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from fst.data.lab.rules import OPS

NODES = "abcdefghijklmnopqrstuvwxyz"
PATH_RULE = "trace_back+reverse"
_LIST_OPS = ("reverse", "rotate_left", "rotate_right", "swap_ends", "drop_first", "drop_last")

_SOURCES = {
    "trace_back": (
        "follow the edges back from the goal to the start",
        "walk back along the edges from the goal to the start",
    ),
    "neighbors": ("write the nodes right after the start", "list every node that the start points to"),
    "goal_start": ("write the goal and the start", "list the goal and the start"),
}


@dataclass(frozen=True)
class StarGraph:
    """`edges` in shuffled order; `path` runs from start to goal; `neighbors` are in order of appearance."""

    edges: tuple[tuple[str, str], ...]
    path: tuple[str, ...]

    @property
    def question(self) -> str:
        edges = ", ".join(f"{a} > {b}" for a, b in self.edges)
        return f"edges: {edges}; start {self.path[0]} goal {self.path[-1]}"

    def source(self, name: str) -> tuple[str, ...]:
        """The nodes that a rule starts from; `name` is a key of `_SOURCES`."""
        if name == "trace_back":
            return self.path[::-1]
        if name == "neighbors":
            return tuple(b for a, b in self.edges if a == self.path[0])
        return (self.path[-1], self.path[0])


def draw_graph(rng: random.Random, arms: int = 2, arm_length: int = 3) -> StarGraph:
    """`arms` chains of `arm_length` edges each from one start (arms * arm_length edges in all)."""
    nodes = rng.sample(NODES, 1 + arms * arm_length)
    start, rest = nodes[0], nodes[1:]
    chains = [(start, *rest[i * arm_length : (i + 1) * arm_length]) for i in range(arms)]
    edges = [edge for chain in chains for edge in pairwise(chain)]
    rng.shuffle(edges)
    return StarGraph(tuple(edges), chains[rng.randrange(arms)])


def graph_rules() -> tuple[str, ...]:
    """Every graph rule the lab knows, the held-out path rule included."""
    return tuple(f"{source}{'+' + op if op else ''}" for source in _SOURCES for op in ("", *_LIST_OPS))


def apply_graph_rule(rule: str, graph: StarGraph) -> str:
    """The rule's answer as text: node names with blanks between, `none` when nothing is left."""
    source, _, op = rule.partition("+")
    nodes = graph.source(source)
    if op:
        order = OPS[op].apply(tuple(range(len(nodes))))
        nodes = tuple(nodes[i] for i in order)
    return " ".join(nodes) or "none"


def graph_instruction(rule: str, rng: random.Random | None = None) -> str:
    """The rule in plain English; with `rng` a random paraphrase."""
    source, _, op = rule.partition("+")
    text = rng.choice(_SOURCES[source]) if rng else _SOURCES[source][0]
    if not op:
        return text
    phrases = tuple(p.replace("digit", "node") for p in OPS[op].digits)
    return f"{text}, then {rng.choice(phrases) if rng else phrases[0]}"
