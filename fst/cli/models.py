"""`fst model`: models from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclopts import App

from fst.cli.options import lines

model = App(name="model", help="Import models from elsewhere.")


@model.command(name="import")
def import_(file: Path, folder: Path, /, *, dtype: Literal["float32", "bfloat16", "float16"] = "float32") -> None:
    """Turn a GGUF file into an ordinary model folder, and report what it lacks compared with the original.

    `model.base` may name the folder, or the file itself: then it is imported once, into a cache, as float32.

    Example: fst model import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2

    Args:
        file: The GGUF file.
        folder: A new folder.
        dtype: Number format of the weights that are written; float32 loses nothing.
    """
    from rich.console import Console

    from fst.models.gguf import import_gguf

    console = Console(stderr=True)
    lost = import_gguf(file, folder, dtype, lambda step: console.print(f"{step} …", highlight=False, markup=False))
    lines([f"{folder} is ready: --model {folder}", *(f"not as in the original: {sentence}" for sentence in lost)])
