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

import numpy as np

from fst.data.domains import load_domain
from fst.data.types import SplitSizes

TUNED = (
    *("coin_flip", "products", "gcd", "word_ladder", "aiw", "number_sorting", "sentence_reordering", "spell_backward"),
    *("propositional_logic", "course_schedule", "simple_equations", "caesar_cipher", "needle_haystack"),
)
MEASURED = (
    *("zebra_puzzles", "gsm_symbolic", "leg_counting", "family_relationships", "syllogism", "knights_knaves"),
    *("word_sorting", "letter_counting", "calendar_arithmetic", "time_intervals", "basic_arithmetic", "chain_sum"),
)
FEW = {"zebra_puzzles": 100, "coin_flip": 100}  # as they are slow to make, or there are no more
TICKETS = Path("data/examples/tickets.jsonl")
SERVICE = "botocore", "data/ec2/2016-11-15/service-2.json.gz"
NOVEL = "reasoning_gym", "data/in_the_year_2889.txt"
_SHORTEST, _LONGEST = 60, 900  # characters of a paragraph
Sets = Mapping[str, tuple[str, ...]]


def tuned_sets(most: int) -> Sets:
    """The sets that the router's constants were chosen on, at most `most` distinct texts of each, in an order that is
    the same every time: datasets of reasoning_gym; numpy's docstrings; and scikit-learn's descriptions of datasets."""
    functions = (getattr(np, name).__doc__ or "" for name in dir(np))
    folder = files("sklearn").joinpath("datasets/descr")
    descriptions = sorted(one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".rst"))
    return {
        **_puzzles(TUNED, most),
        "numpy": _paragraphs(functions, most),
        "scikit-learn": _paragraphs(descriptions, most),
    }


def measured_sets(most: int) -> Sets:
    """Sets that nothing was chosen on: other datasets of reasoning_gym; what botocore says of each operation of a
    cloud; and the manual of Python, of its standard library."""
    from pydoc_data.topics import topics

    operations = json.loads(gzip.decompress(_file(*SERVICE)))["operations"].values()
    plain = (html.unescape(re.sub(r"<[^>]+>", " ", one.get("documentation", "")))[:_LONGEST] for one in operations)
    return {
        **_puzzles(MEASURED, most),
        "cloud": _paragraphs(plain, most),
        "manual": _paragraphs(topics.values(), most),
    }


def small_sets(most: int) -> Sets:
    """Texts that all differ, and are few: the support requests of data/examples, and the paragraphs of a short story
    in reasoning_gym's data."""
    tickets = (json.loads(line)["question"] for line in TICKETS.read_text(encoding="utf-8").splitlines())
    return {"tickets": _shuffled(tickets, most), "story": _paragraphs([_file(*NOVEL).decode("utf-8")], most)}


def _puzzles(names: Iterable[str], most: int) -> dict[str, tuple[str, ...]]:
    found = {}
    for name in names:
        problems = load_domain(f"reasoning_gym/{name}", SplitSizes(min(most, FEW.get(name, most)), 1, 1), 0).train
        found[name] = _shuffled((problem.question for problem in problems), most)
    return found


def _paragraphs(texts: Iterable[str], most: int) -> tuple[str, ...]:
    found = (" ".join(paragraph.split()) for text in texts for paragraph in re.split(r"\n\s*\n", text))
    return _shuffled((paragraph for paragraph in found if _SHORTEST <= len(paragraph) <= _LONGEST), most)


def _shuffled(texts: Iterable[str], most: int) -> tuple[str, ...]:
    distinct = list(dict.fromkeys(texts))
    random.Random(0).shuffle(distinct)
    return tuple(distinct[:most])


def _file(package: str, path: str) -> bytes:
    return files(package).joinpath(path).read_bytes()
