"""Sets of texts to measure routing on: questions of puzzles, and texts that people wrote, which installed packages or
this repository carry."""

from __future__ import annotations

import gzip
import html
import json
import random
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from fst.data.domains import load_domain
from fst.data.types import SplitSizes

GYM = (
    *("zebra_puzzles", "gsm_symbolic", "leg_counting", "family_relationships", "syllogism", "knights_knaves"),
    *("word_sorting", "letter_counting", "calendar_arithmetic", "time_intervals", "basic_arithmetic", "chain_sum"),
)
SLOW = {"zebra_puzzles": 60}  # fewer of them, as each takes a quarter of a second to make
TICKETS = Path("data/examples/tickets.jsonl")
SERVICE = "botocore", "data/ec2/2016-11-15/service-2.json.gz"
NOVEL = "reasoning_gym", "data/in_the_year_2889.txt"
_SHORTEST, _LONGEST = 60, 900  # characters of a paragraph


def text_sets(most: int) -> Mapping[str, tuple[str, ...]]:
    """At most `most` distinct texts of each set, by its name, in an order that is the same every time. Datasets of
    reasoning_gym, and: the support tickets of data/examples; the paragraphs of a short novel, which reasoning_gym has
    in its data; what botocore says of each operation of a cloud; and the manual of Python, of its standard library."""
    sets: dict[str, Iterable[str]] = {name: _questions(name, min(most, SLOW.get(name, most))) for name in GYM}
    sets["tickets"] = [json.loads(line)["question"] for line in TICKETS.read_text(encoding="utf-8").splitlines()]
    sets["novel"] = _paragraphs(_file(*NOVEL).decode("utf-8"))
    operations = json.loads(gzip.decompress(_file(*SERVICE)))["operations"].values()
    plain = (html.unescape(re.sub(r"<[^>]+>", " ", one.get("documentation", ""))) for one in operations)
    sets["cloud"] = [text for found in plain for text in _paragraphs(found[:_LONGEST])]
    from pydoc_data.topics import topics

    sets["manual"] = [paragraph for topic in topics.values() for paragraph in _paragraphs(topic)]
    return {name: _shuffled(name, texts)[:most] for name, texts in sets.items()}


def _questions(name: str, most: int) -> list[str]:
    problems = load_domain(f"reasoning_gym/{name}", SplitSizes(most, 1, 1), 0).train
    return [problem.question for problem in problems]


def _paragraphs(text: str) -> list[str]:
    found = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return [paragraph for paragraph in found if _SHORTEST <= len(paragraph) <= _LONGEST]


def _shuffled(name: str, texts: Iterable[str]) -> tuple[str, ...]:
    distinct = list(dict.fromkeys(texts))
    random.Random(name).shuffle(distinct)
    return tuple(distinct)


def _file(package: str, path: str) -> bytes:
    return files(package).joinpath(path).read_bytes()
