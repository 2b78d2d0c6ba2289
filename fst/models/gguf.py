"""GGUF files: one file of (mostly quantised) weights with a tokenizer, as llama.cpp reads it, made an ordinary model
folder. transformers reads the file; what it gets wrong is mended here.

    the end token      its converters may name another one; an answer ends where the file and the chat template say
    control tokens     some of its converters know a few; all of the file's become tokens of their own

`model.base` may name such a file itself: it is imported once, into the user's cache, and the folder is what is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from jinja2 import TemplateError
from tokenizers import AddedToken

from fst.errors import ConfigError, ModelError
from fst.extras import require
from fst.files import document, file_sha256, replacing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1  # of imported folders; another one does not take those of the cache
FACTS = "gguf.json"  # in an imported folder: the file it was made from, and what was lost
_PLAIN = ("F64", "F32", "F16", "BF16")  # tensors that are not quantised
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_ENDS = ("eos", "eot", "eom")  # end of the text, of a turn, of a message
_PROBE = "fst-probe"

Say = Callable[[str], None]
log = logging.getLogger("fst.models")


@dataclass(frozen=True)
class Header:
    """What a GGUF file says besides its weights: `values` by key, the number of tensors of each type, their names."""

    values: dict[str, Any]
    types: dict[str, int]
    tensors: frozenset[str]

    def token(self, name: str) -> str | None:
        """The token that the file declares as `name`, such as eos; None where it declares none."""
        place = self.values.get(f"tokenizer.ggml.{name}_token_id")
        tokens = self.values.get("tokenizer.ggml.tokens", [])
        return tokens[place] if place is not None and place < len(tokens) else None


def is_gguf(base: str) -> bool:
    """Whether a model is named by a GGUF file."""
    return base.lower().endswith(".gguf")


def imported(file: Path, into: Path | None = None) -> Path:
    """The folder that a file is imported into where `model.base` names the file itself: in the user's cache, made once
    for the file's content. Raises ModelError, MissingDependency."""
    folder = (into or cache()) / f"{_sha256(file)}-{FORMAT}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():  # another process may have made it meanwhile
                for sentence in import_gguf(file, folder):
                    log.warning("%s: %s", file, sentence)
    return folder


def import_gguf(file: Path, folder: Path, dtype: str = "float32", say: Say = lambda step: None) -> list[str]:
    """Write the model in a GGUF file as a new folder, in one step; returns what the folder lacks of the original model,
    a sentence each. `say` is told every step.

    Raises ConfigError when the folder exists, ModelError for a file that cannot be read, MissingDependency.
    """
    require("gguf")
    from transformers import AutoModelForCausalLM, GgufConfig

    if folder.exists():
        raise ConfigError(f"{folder} exists already; name a new folder, or remove it first")
    digest = _sha256(file)
    with _alone(file) as place, _readable(file):
        say(f"reading {file}")
        header = read_header(file)
        say("making the tokenizer")
        tokenizer = _tokenizer(place, header)
        say(f"de-quantising {sum(header.types.values())} tensors")
        plain = GgufConfig(dequantize=True)  # the config then says nothing of it either
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=dtype, quantization_config=plain)
        _end(model, tokenizer, header)
    lost = list(_lost(header, tokenizer))
    say(f"writing {folder}")
    with replacing(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        facts = {"file": file.name, "sha256": digest, "dtype": dtype, "lost": lost}
        (partial / FACTS).write_text(document(facts), encoding="utf-8")
    return lost


def read_header(file: Path) -> Header:
    """What a GGUF file says besides its weights."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    return Header(
        {key: field.contents() for key, field in reader.fields.items()},
        dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
        frozenset(tensor.name for tensor in reader.tensors),
    )


def _tokenizer(place: dict[str, Any], header: Header) -> PreTrainedTokenizerBase:
    """The file's tokenizer, with the special tokens that the file declares and all its control tokens."""
    from gguf import TokenType
    from transformers import AutoTokenizer

    named = {name: header.token(key) for name, key in _NAMED.items()}  # None: transformers would invent one
    tokenizer = AutoTokenizer.from_pretrained(**place, **named)
    for name, token in named.items():
        setattr(tokenizer, name, token)
    tokens = header.values.get("tokenizer.ggml.tokens", [])
    kinds = header.values.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    known = tokenizer.get_added_vocab()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (TokenType.CONTROL, TokenType.USER_DEFINED) and token not in known
        ]
    )
    context = header.values.get(f"{header.values['general.architecture']}.context_length")
    tokenizer.model_max_length = context or tokenizer.model_max_length
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def _end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, header: Header) -> None:
    """Have tokenizer, config and generation config agree on where an answer ends: at the token that the chat template
    puts after an answer, and at all that the file declares as ends."""
    declared = [token for token in map(header.token, _ENDS) if token is not None]
    turn = _end_of_turn(tokenizer)
    ends = list(dict.fromkeys([turn, *declared] if turn else declared))
    if not ends:
        raise ModelError("the file declares no end token, and its chat template puts none after an answer")
    tokenizer.eos_token = ends[0]
    tokenizer.pad_token = tokenizer.pad_token or ends[0]
    ids = tokenizer.convert_tokens_to_ids(ends)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = ids if len(ids) > 1 else ids[0]
        settings.bos_token_id, settings.pad_token_id = tokenizer.bos_token_id, tokenizer.pad_token_id


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The control token that the chat template puts after an answer; None without one."""
    if not isinstance(tokenizer.chat_template, str):
        return None
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _PROBE}]
    rest = str(tokenizer.apply_chat_template(turns, tokenize=False)).partition(_PROBE)[2].lstrip()
    control = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in control if rest.startswith(token)), key=len, default=None)


def _lost(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What the folder lacks of the original model."""
    quantised = {name: count for name, count in header.types.items() if name not in _PLAIN}
    if quantised:
        kinds = ", ".join(f"{count} as {name}" for name, count in sorted(quantised.items()))
        yield f"the weights were quantised (tensors: {kinds}): the folder has de-quantised values, not the original's"
    rule = header.values.get("tokenizer.ggml.pre")
    if rule:
        yield (
            f"the tokenizer's rule for splitting text is in the file by its name alone ({rule}): transformers takes "
            "the one it knows for the architecture, so a text may become other tokens than the original's"
        )
    if tokenizer.chat_template is None:
        yield "the file has no chat template: add chat_template.jinja to the folder, which training and serving need"
    others = [key.removeprefix("tokenizer.chat_template.") for key in header.values if "chat_template." in key]
    if others:
        yield f"of the chat templates only the default one is kept, without: {', '.join(others)}"
    scaling = [key for key in header.values if ".rope.scaling." in key] + sorted(header.tensors & {"rope_freqs.weight"})
    if scaling:
        yield f"the scaling of positions for long texts is left out ({', '.join(scaling)}): keep to short ones"


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[dict[str, Any]]:
    """The file in a folder of its own, as options of `from_pretrained`: where other files of a model lie beside it,
    transformers takes those."""
    with tempfile.TemporaryDirectory(prefix="fst-gguf-") as folder:
        (Path(folder) / "model.gguf").symlink_to(file.resolve())
        yield {"pretrained_model_name_or_path": folder, "gguf_file": "model.gguf"}


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn a library's error about a file into a ModelError."""
    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError, TemplateError) as exc:
        raise ModelError(
            f"{file}: no GGUF file that transformers can read: {exc}\n"
            "Take a whole file of an architecture and a quantisation that it knows, or the folder of the original model"
        ) from exc


def _sha256(file: Path) -> str:
    """SHA-256 of a file, which is not read again while it stays as it is. Raises ModelError when there is none."""
    try:
        found = file.stat()
    except OSError as exc:
        raise ModelError(f"{file}: {exc.strerror}; name a GGUF file that is on this machine") from exc
    return _hashed(file.resolve(), found.st_size, found.st_mtime_ns)


@functools.lru_cache
def _hashed(file: Path, size: int, changed: int) -> str:
    return file_sha256(file)


def cache() -> Path:
    """The user's cache of imported files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fast-slow-training" / "gguf"
