"""The lab's tokenizer: one token per word of the lab's vocabulary, characters and bytes for everything else."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<|pad|>", "<|unk|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")

# A turn's text cannot open or close a turn: the template puts a space into any "<|" in it.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + (message['content'] | replace('<|', '< |')) -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build_tokenizer(words: tuple[str, ...], context: int) -> PreTrainedTokenizerFast:
    """Unigram segmentation over whole words (preferred), characters and bytes, so that any text decodes back to itself.
    `context` is the longest input of the model, in tokens."""
    pieces: list[tuple[str, float]] = [(token, -100.0) for token in SPECIALS]
    pieces += [(f"▁{word}", -1.0) for word in words]
    pieces += [("▁", -2.0)] + [(chr(c), -2.0) for c in range(33, 127)]
    pieces += [(f"<0x{byte:02X}>", -10.0) for byte in range(256)]
    core = Tokenizer(Unigram(pieces, unk_id=1, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=SPECIALS[0],
        unk_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        extra_special_tokens=list(SPECIALS[3:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
