"""Extracts the prompt from a reflector's reply: thinking is removed, GEPA's own extractor reads the rest."""

from __future__ import annotations

import re

from gepa.strategies.instruction_proposal import InstructionProposalSignature

# From the reply's beginning to the first closing tag. Chat templates may open the thinking themselves, so the opening
# tag is optional; one that is not at the beginning belongs to the prompt.
_THINKING = re.compile(r"\A(?:<think(?:ing)?>)?(?:(?!<think(?:ing)?>).)*?</think(?:ing)?>", re.DOTALL)
_UNFINISHED = re.compile(r"\A<think(?:ing)?>.*", re.DOTALL)
_FENCE = "```"
_LABEL = re.compile(r"(?:^#{2,} .*|^\*\*.*\*\*|[:\uff1a][*_]*)\s*\Z", re.MULTILINE)  # a heading, bold, or a colon


def extract_prompt(reply: str) -> str:
    """Extract the new instruction from a reply: the text between its fences of backticks, without a language tag, or
    the whole reply if it has no fences.

    GEPA's extractor reads from the first fence to the last, so that fences inside an instruction are kept. Before that,
    longer fences are replaced by plain ones, and of several blocks introduced by a heading line the last is taken
    (models quote the old instruction first). Returns an empty text for a reply that was cut off while thinking.
    """
    text = _UNFINISHED.sub("", _THINKING.sub("", reply.replace("\r\n", "\n").strip(), count=1))
    parts = re.sub("`{4,}", _FENCE, text).split(_FENCE)  # in turn outside and inside of a block
    announced = [i for i in range(2, len(parts) - 1, 2) if _LABEL.search(parts[i])]
    rest = parts[max(announced, default=0) :]
    if len(rest) == 2 and rest[1].strip():  # a fence that is never closed
        rest = ["", rest[1]]
    return str(InstructionProposalSignature.output_extractor(_FENCE.join(rest))["new_instruction"])
