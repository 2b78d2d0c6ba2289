"""Converts GGUF files (llama.cpp's format: mostly quantised weights and a tokenizer in one file) into ordinary model
folders. transformers reads the file; its mistakes are corrected here:

    the end token      its converters may pick another one; here the file and the chat template decide
    control tokens     some of its converters know only a few; here all of the file's become special tokens

`model.base` may also be the file itself: it is then imported once into the user's cache and loaded from there.
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

FORMAT = 1  # version of imported folders; folders of other versions in the cache are not used
FACTS = "gguf.json"  # in an imported folder: the file it was made from, and what was lost
_PLAIN = ("F64", "F32", "F16", "BF16")  # tensors that are not quantised
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_ENDS = ("eos", "eot", "eom")  # end of the text, of a turn, of a message
_PROBE = "fst-probe"

Say = Callable[[str], None]
log = logging.getLogger("fst.models")


@dataclass(frozen=True)
class Header:
    """The metadata of a GGUF file: `values` by key, the number of tensors of each type, and their names."""

    values: dict[str, Any]
    types: dict[str, int]
    tensors: frozenset[str]

    def token(self, name: str) -> str | None:
        """The token that the file declares as `name`, such as eos; None if it declares none."""
        place = self.values.get(f"tokenizer.ggml.{name}_token_id")
        tokens = self.values.get("tokenizer.ggml.tokens", [])
        return tokens[place] if place is not None and place < len(tokens) else None


def is_gguf(base: str) -> bool:
    """Whether a model is named by a GGUF file."""
    return base.lower().endswith(".gguf")


def imported(file: Path, into: Path | None = None) -> Path:
    """Import a file named by `model.base` into the user's cache, unless its content was imported before; returns the
    folder. Raises ModelError if the file cannot be read, MissingDependency without the extra `gguf`."""
    folder = (into or cache()) / f"{_sha256(file)}-{FORMAT}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():  # another process may have made it meanwhile
                for sentence in import_gguf(file, folder):
                    log.warning("%s: %s", file, sentence)
    return folder


def import_gguf(file: Path, folder: Path, dtype: str = "float32", say: Say = lambda step: None) -> list[str]:
    """Write the model in a GGUF file to a new folder, atomically. Returns one sentence for each thing that the folder
    lacks compared with the original model. `say` is called with a description of each step.

    Raises ConfigError if the folder exists, ModelError for a file that cannot be read, MissingDependency without the
    extra `gguf`.
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
        plain = GgufConfig(dequantize=True)  # the saved config then has no trace of it either
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
    """Read the metadata of a GGUF file, without its weights."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    return Header(
        {key: field.contents() for key, field in reader.fields.items()},
        dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
        frozenset(tensor.name for tensor in reader.tensors),
    )


def _tokenizer(place: dict[str, Any], header: Header) -> PreTrainedTokenizerBase:
    """Make the file's tokenizer, with the special tokens that the file declares and all its control tokens."""
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
    """Make tokenizer, config and generation config agree on where an answer ends: at the token that the chat template
    puts after an answer, and at every end token that the file declares. Raises ModelError if there is none."""
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
    """The control token that the chat template puts after an answer; None if it puts none."""
    if not isinstance(tokenizer.chat_template, str):
        return None
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": _PROBE}]
    rest = str(tokenizer.apply_chat_template(turns, tokenize=False)).partition(_PROBE)[2].lstrip()
    control = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in control if rest.startswith(token)), key=len, default=None)


def _lost(header: Header, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """One sentence for each thing that the folder lacks compared with the original model."""
    quantised = {name: count for name, count in header.types.items() if name not in _PLAIN}
    if quantised:
        kinds = ", ".join(f"{count} as {name}" for name, count in sorted(quantised.items()))
        yield f"the weights were quantised (tensors: {kinds}): the folder has de-quantised values, not the original's"
    rule = header.values.get("tokenizer.ggml.pre")
    if rule:
        yield (
            f"the file only names the tokenizer's rule for splitting text ({rule}): transformers takes the one it "
            "knows for the architecture, so a text may be split into other tokens than with the original"
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
    """Link the file into an empty folder and yield the options of `from_pretrained`. If other files of a model were
    beside it, transformers would load those."""
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
            f"{file}: transformers cannot read this GGUF file: {exc}\n"
            "Use a complete file of an architecture and a quantisation that it supports, or the original model's folder"
        ) from exc


def _sha256(file: Path) -> str:
    """SHA-256 of a file, cached while its size and time stay the same. Raises ModelError if the file does not exist."""
    try:
        found = file.stat()
    except OSError as exc:
        raise ModelError(f"{file}: {exc.strerror}; name a GGUF file that is on this machine") from exc
    return _hashed(file.resolve(), found.st_size, found.st_mtime_ns)


@functools.lru_cache
def _hashed(file: Path, size: int, changed: int) -> str:
    return file_sha256(file)


def cache() -> Path:
    """The folder of the user's cache of imported files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fast-slow-training" / "gguf"
