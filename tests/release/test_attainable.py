"""What prompts alone could reach is measured under words that say what a domain asks."""

from __future__ import annotations

import pytest

from fst.errors import ConfigError
from fst.release.attainable import plain_words


def test_a_rule_of_the_lab_has_words_of_its_own() -> None:
    digits, letters = plain_words("lab/reverse"), plain_words("lab/letters:sort_desc+drop_last")
    assert "reverse" in digits
    assert letters != digits


def test_other_domains_are_worded_in_the_scenario() -> None:
    with pytest.raises(ConfigError, match=r"jsonl:mine.jsonl: .*domains.NAME.instruction"):
        plain_words("jsonl:mine.jsonl")
