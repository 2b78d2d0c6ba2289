"""A tokenizer without a model. R1 the lab's is the one that AutoTokenizer finds, with the model's context; R2 counting
tokens, and with it the stages `prepare` and `validate`, imports no PEFT and nothing that generates text; R3 what was
measured already is released without loading torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer

from fst.checkout import LAB_BASE
from fst.config import ModelParams
from fst.models.reader import load_reader

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("digits: 3 1 4", "  two  blanks, ünïcödé and <|end|> of turn\n", "", "<|assistant|> 42")


def test_r1_the_labs_tokenizer_is_the_one_that_is_found() -> None:
    reader, found = load_reader(ModelParams()), AutoTokenizer.from_pretrained(LAB_BASE, padding_side="left")
    ours = reader.tokenizer
    assert reader.context == AutoConfig.from_pretrained(LAB_BASE).max_position_embeddings == 512
    assert type(ours) is type(found)
    assert ours.init_kwargs == found.init_kwargs
    assert ours.chat_template == found.chat_template
    assert ours.get_vocab() == found.get_vocab()
    for text in TEXTS:
        assert ours(text)["input_ids"] == found(text)["input_ids"]


def imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of the modules a process has loaded in the end."""
    code = f"import sys\n{code}\nprint([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(eval(done.stdout))


def test_r2_counting_tokens_imports_no_model() -> None:
    code = (
        "import fst.stages.prepare, fst.stages.validate\n"
        "from fst.config import ModelParams\n"
        "from fst.models.reader import load_reader\n"
        "reader = load_reader(ModelParams())\n"
        "assert reader.encode([reader.messages('', 'digits: 3 1 4')])"
    )
    names = ("peft", "trl", "sklearn", "accelerate", "transformers.modeling_utils", "transformers.generation.utils")
    assert imported(code, names) == []


def test_r3_a_release_loads_no_model_until_it_must_measure() -> None:
    assert imported("import fst.release.candidate, fst.stages.bundle, fst.stages.base", ("torch", "transformers")) == []
