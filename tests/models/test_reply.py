"""The prompt in a reflector's reply: a table of what models write, and what is to be read in it."""

from __future__ import annotations

import pytest

from fst.models.reply import extract_prompt

PYTHON = "Write code like this:\n```python\nprint(1)\n```\nand nothing else."
BARE = "Answer in this form:\n```\n42\n```\nNothing else."

REPLIES = {
    "bare": ("sort the digits", "sort the digits"),
    "blanks": ("  sort \n", "sort"),
    "nothing": ("", ""),
    "blank": (" \n\t", ""),
    "fenced": ("Here:\n```\nsort\nall\n```\nDone.", "sort\nall"),
    "with a language": ("```text\nsort\n```", "sort"),
    "with another language": ("```markdown\n# Task\nSort.\n```", "# Task\nSort."),
    "on one line": ("Use ```sort the digits``` now", "sort the digits"),
    "an empty block": ("```\n\n```", ""),
    "never closed": ("```\nsort", "sort"),
    "never closed, after a line": ("Sure, here it is:\n\n```\nsort all", "sort all"),
    "never opened": ("sort the digits\n```", "sort the digits"),
    "inline code": ("use `x` and ``y``", "use `x` and ``y``"),
    "code inside": (f"Better:\n```\n{PYTHON}\n```", PYTHON),
    "code inside and words after": (f"```\n{PYTHON}\n```\nThis should work.", PYTHON),
    "bare fences inside": (f"```\n{BARE}\n```", BARE),
    "longer fences outside": (f"````\n{PYTHON}\n````", PYTHON),
    "longer fences with a language": (f"Better:\n````markdown\n{BARE}\n````", BARE),
    "old, then new": ("Current instruction:\n```\nsolve\n```\nNew instruction:\n```\nsort\n```", "sort"),
    "old, then new in bold": ("**Old:**\n```\nsolve\n```\n\n**New:**\n\n```text\nsort\n```\nDone", "sort"),
    "a second thought": ("```first```\nno, better:\n```\nsecond\n```", "second"),
    "three drafts": ("A:\n```\na\n```\nB:\n```\nb\n```\nC:\n```\nc\n```", "c"),
    "old, then new with code inside": (f"Old:\n```\nsolve\n```\nNew:\n```\n{PYTHON}\n```", PYTHON),
    "thinking": ("<think>maybe ```reverse```?</think>\n```\nsort\n```", "sort"),
    "thinking without fences": ("<think>\nHm.\n</think>\n\nsort", "sort"),
    "thinking, tag in full": ("<thinking>Hm.</thinking>sort", "sort"),
    "thinking that the template opened": ("They want order.\n</think>\n\n```\nsort\n```", "sort"),
    "nothing but thinking": ("<think>sort? or ```reverse```", ""),
    "a prompt that asks to think": (
        "```\nReason in <think> and </think>, then answer.\n```",
        "Reason in <think> and </think>, then answer.",
    ),
    "thinking, then a prompt that asks to think": (
        "<think>Let it think.</think>```\nReason in <think> and </think>.\n```",
        "Reason in <think> and </think>.",
    ),
    "windows line ends": ("```\r\nsort\r\n```", "sort"),
    "windows line ends and a language": ("```text\r\nsort\r\nall\r\n```", "sort\nall"),
    "not English": ("旧指令\uff1a\n```\n解题\n```\n新指令\uff1a\n```\n把数字排序\n```", "把数字排序"),
    "old, then new under headings": ("## Old\n```\nsolve\n```\n### New instruction\n```\nsort\n```", "sort"),
    "a comment in the code inside": (
        "```\nRun this:\n```python\n# New\n```\nand answer.\n```",
        "Run this:\n```python\n# New\n```\nand answer.",
    ),
}


@pytest.mark.parametrize(("reply", "prompt"), REPLIES.values(), ids=REPLIES)
def test_the_prompt_of_a_reply(reply: str, prompt: str) -> None:
    assert extract_prompt(reply) == prompt


def test_a_long_reply_takes_no_long_time() -> None:
    assert extract_prompt("a <think " * 20_000).startswith("a <think")
    assert extract_prompt("```" * 20_000) == ""
