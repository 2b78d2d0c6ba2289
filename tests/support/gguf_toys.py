"""Tiny GGUF files, made here: a random Llama or Qwen2 with a tokenizer of single bytes and three control tokens."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER = ("<think>", "</think>")
MERGES = ("a b", "c d")
TOKENS = (*CONTROL, *bytes_to_unicode().values(), "ab", "cd", *USER)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
MODELS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
LAYERS, HEADS, KEYS, WIDTH = 2, 4, 2, 64
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def toy(architecture: str = "llama") -> PreTrainedModel:
    """The model that `write` puts into a file; always the same weights."""
    torch.manual_seed(3)
    config_class, model_class = MODELS[architecture]
    config = config_class(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero otherwise
                parameter.normal_()
    return model


def write(
    file: Path, architecture: str = "llama", quantised: bool = False, template: str | None = TEMPLATE, **values: Any
) -> Path:
    """Write the model as a GGUF file; matrices of the layers as Q8_0 where it is `quantised`. The end token that it
    declares is <|endoftext|>, which is not the one that its template ends a turn with. `values` are further keys,
    `__` being a dot."""
    writer = GGUFWriter(file, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    kinds = {**dict.fromkeys(CONTROL, TokenType.CONTROL), **dict.fromkeys(USER, TokenType.USER_DEFINED)}
    writer.add_token_types([kinds.get(token, TokenType.NORMAL) for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TOKENS.index("<|im_start|>"))
    writer.add_eos_token_id(TOKENS.index("<|endoftext|>"))
    if template is not None:
        writer.add_chat_template(template)
    for key, value in values.items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(key.replace("__", "."), value)
    weights = {name: tensor.numpy() for name, tensor in toy(architecture).state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(LAYERS):
        for (theirs, ours), kind in itertools.product(NAMES.items(), ("weight", "bias")):
            tensor = weights.get(f"model.layers.{layer}.{ours}.{kind}")
            if tensor is None:
                continue
            if architecture == "llama" and theirs in ("attn_q", "attn_k"):
                tensor = _interleaved(tensor, HEADS if theirs == "attn_q" else KEYS)
            name = f"blk.{layer}.{theirs}.{kind}"
            if quantised and tensor.ndim == 2:
                packed = gguf.quants.quantize(tensor, GGMLQuantizationType.Q8_0)
                writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            else:
                writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _interleaved(tensor: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp's rotary embedding: the two halves of each head taken in turn."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, tensor.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
