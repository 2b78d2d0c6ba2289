"""Pretraining of the lab base model: a Qwen3 of about a million parameters, on the lab's own text.

A row holds a system turn and several (user, assistant) turns; a block mask keeps the turns from attending to each
other, so that one instruction is encoded once and answered several times (about 1.6 times as many answers per token as
with one turn per row). Muon trains the matrices, AdamW the rest. The same seed and number of threads give the same
weights.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from fst.data.lab.corpus import Text, draw_following, draw_generic, draw_induction, vocabulary
from fst.files import write_atomic
from fst.models.lab.tokenizer import build_tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    """Shape and schedule. Learning rates are peaks: linear warm-up, then a cosine over `horizon_steps`, multiplied over
    the last `cooldown_steps` before `steps` by a linear fall to zero. Rows are per step and kind of text."""

    steps: int = 2200
    horizon_steps: int = 3400
    cooldown_steps: int = 700
    following_rows: int = 64
    generic_rows: int = 10
    induction_rows: int = 112
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    intermediate: int = 384
    context: int = 512
    matrix_lr: float = 0.02
    vector_lr: float = 3e-3
    warmup_steps: int = 100
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Batch:
    """Rows as tensors: ids and positions (B, L); mask (B, 1, L, L), true where attention is allowed; targets (B, L),
    the next token of the same turn, -100 at positions without a loss."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor


def collate(texts: list[Text], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Encode rows. Padding attends only to itself, so that no row of the mask is empty."""
    system, user, assistant = tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>"])
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    parts = [part for t in texts for part in (t.system, *(p for turn in t.turns for p in turn))]
    encoded = iter(tokenizer(parts)["input_ids"])
    rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for text in texts:
        instruction = next(encoded)
        ids = [system, *instruction] if text.system else []
        segments, positions, targets = [0] * len(ids), list(range(len(ids))), [-100] * len(ids)
        prefix = len(ids)
        for number in range(1, len(text.turns) + 1):
            asked, answered = [user, *next(encoded), assistant], [*next(encoded), end]
            ids += asked + answered
            segments += [number] * (len(asked) + len(answered))
            positions += range(prefix, prefix + len(asked) + len(answered))
            targets += [-100] * (len(asked) - 1) + answered + [-100]
        rows.append((ids, segments, positions, targets))
    length = max(len(row[0]) for row in rows)

    def padded(index: int, fill: int) -> torch.Tensor:
        return torch.tensor([row[index] + [fill] * (length - len(row[index])) for row in rows])

    segment = padded(1, -1)
    same = segment[:, :, None] == segment[:, None, :]
    allowed = (same | (segment == 0)[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    allowed |= torch.eye(length, dtype=torch.bool)
    return Batch(padded(0, pad), padded(2, 0), allowed[:, None], padded(3, -100))


MICRO_CHARACTERS = 4_000


def _characters(text: Text) -> int:
    return len(text.system) + sum(len(a) + len(b) for a, b in text.turns)


def _micro_batches(texts: list[Text], tokenizer: PreTrainedTokenizerFast) -> list[Batch]:
    """Cut into batches of rows of similar length, about MICRO_CHARACTERS each: little padding, and activations that fit
    into the CPU's cache."""
    ordered = sorted(texts, key=_characters)
    batches, start = [], 0
    while start < len(ordered):
        stop = start + 1
        while stop < len(ordered) and (stop + 1 - start) * _characters(ordered[stop]) < MICRO_CHARACTERS:
            stop += 1
        batches.append(collate(ordered[start:stop], tokenizer))
        start = stop
    return batches


class Bfloat16Worker:
    """A bfloat16 copy that runs forward and backward for float32 masters (matrix products are four times as fast as in
    float32 on CPUs with AVX512-BF16). Gradients are summed in float32. Attention is eager, because its backward pass is
    faster than the fused one at these lengths."""

    def __init__(self, master: Qwen3ForCausalLM) -> None:
        self.master = master
        self.copy = copy.deepcopy(master).to(torch.bfloat16)
        self.copy.config._attn_implementation = "eager"

    def pull(self) -> None:
        """Copy the masters' values."""
        with torch.no_grad():
            for mine, master in zip(self.copy.parameters(), self.master.parameters(), strict=True):
                mine.copy_(master)

    def push_gradients(self) -> None:
        """Add this copy's gradients to the masters', and clear them here."""
        for mine, master in zip(self.copy.parameters(), self.master.parameters(), strict=True):
            if mine.grad is None:
                continue
            gradient = mine.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            mine.grad = None

    def backward_mean(self, texts: list[Text], tokenizer: PreTrainedTokenizerFast) -> tuple[float, int]:
        """Add to the masters the gradient of the mean cross-entropy over all targets of `texts`.

        Returns (that mean in nats per token, tokens read).
        """
        batches = _micro_batches(texts, tokenizer)
        count = sum(int((b.targets != -100).sum()) for b in batches)
        total = 0.0
        for batch in batches:
            mask = torch.zeros(batch.mask.shape, dtype=torch.bfloat16).masked_fill_(~batch.mask, -1e4)
            hidden = self.copy.model(
                input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False
            )[0]
            learnt = batch.targets != -100
            logits = self.copy.lm_head(hidden[learnt]).float()
            loss = F.cross_entropy(logits, batch.targets[learnt], reduction="sum") / count
            loss.backward()
            self.push_gradients()
            total += loss.item()
        return total, sum(int((b.ids != tokenizer.pad_token_id).sum()) for b in batches)


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A model of the configured shape with random weights."""
    torch.manual_seed(config.seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.hidden // config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            dtype="float32",
        )
    )


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Factor of the peak learning rates at a step; see PretrainConfig."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.horizon_steps - config.warmup_steps)
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return cosine * min(1.0, (config.steps - step) / config.cooldown_steps)


def _optimizers(model: Qwen3ForCausalLM, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=config.vector_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def pretrain(
    config: PretrainConfig,
    out: Path,
    report: Callable[[int, float, float, int], None] = lambda step, follow, induce, tokens: None,
    checkpoint_every: int = 250,
) -> dict[str, float]:
    """Train from scratch, or from the checkpoint beside `out` if an earlier call was interrupted; save model, tokenizer
    and their checksums to `out`. Returns {"tokens", "minutes", "loss_following", "loss_induction"}."""
    torch.set_num_threads(config.threads)
    tokenizer = build_tokenizer(vocabulary(), config.context)
    model = build_model(config, tokenizer)
    optimizers = _optimizers(model, config)
    peaks = [group["lr"] for o in optimizers for group in o.param_groups]
    worker = Bfloat16Worker(model)
    rng = random.Random(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_name(f".{out.name}.ckpt")
    first, tokens, seconds = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["config"] == asdict(config):
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            version, internal, gauss = state["rng"]
            rng.setstate((version, tuple(internal), gauss))
            first, tokens, seconds = state["step"], state["tokens"], state["seconds"]
    started = time.monotonic() - seconds
    follow = induce = 0.0
    for step in range(first, config.steps):
        worker.pull()
        following = [draw_following(rng) for _ in range(config.following_rows)]
        following += [draw_generic(rng) for _ in range(config.generic_rows)]
        follow, read = worker.backward_mean(following, tokenizer)
        induce, more = worker.backward_mean([draw_induction(rng) for _ in range(config.induction_rows)], tokenizer)
        tokens += read + more
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        groups = [group for o in optimizers for group in o.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * learning_rate(step, config)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, follow, induce, tokens)
        if (step + 1) % checkpoint_every == 0 and step + 1 < config.steps:
            partial = checkpoint.with_suffix(".tmp")
            torch.save(
                {
                    "config": asdict(config),
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "rng": rng.getstate(),
                    "step": step + 1,
                    "tokens": tokens,
                    "seconds": time.monotonic() - started,
                },
                partial,
            )
            partial.replace(checkpoint)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_checksums(out)
    checkpoint.unlink(missing_ok=True)
    return {
        "tokens": tokens,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "loss_following": round(follow, 4),
        "loss_induction": round(induce, 4),
    }


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS over the folder's files, in the form of `sha256sum`."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    write_atomic(folder / "SHA256SUMS", "".join(lines))
