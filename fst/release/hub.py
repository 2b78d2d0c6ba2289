"""A release as a model repository: the adapter where PEFT and vLLM look for it, its prompts, its measurements, and a
model card generated from the manifest.

    adapter_config.json, adapter_model.safetensors   absent if the weights are those of the base
    prompts.json, evaluation.json, manifest.json     as in the bundle; the manifest has the SHA-256 of the others
    README.md                                        the card

Answers to validation problems (reference.json) are not included. huggingface_hub does the upload.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from fst.errors import ConfigError, StoreError
from fst.files import replacing
from fst.store.bundle import ADAPTER, MANIFEST, Bundle

DOCUMENTS = ("prompts.json", "evaluation.json", MANIFEST)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def write_repository(bundle: Bundle, repository: str, folder: Path) -> Path:
    """Write what `push` uploads into a folder, atomically, and return the folder. Raises ConfigError if the folder
    exists and contains anything else."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).exists())):
        raise ConfigError(f"--to {folder}: holds something else; name a new folder")
    with replacing(folder) as partial:
        for path in (*DOCUMENTS, *(ADAPTER if bundle.adapter else ())):
            shutil.copyfile(bundle.folder / path, partial / Path(path).name)
        (partial / "README.md").write_text(card(bundle, repository), encoding="utf-8")
    return folder


def push(bundle: Bundle, repository: str, public: bool) -> str:
    """Upload a release as one commit to a repository, which is created if it is missing, and return the commit's URL.
    Token and endpoint are those of huggingface_hub (HF_TOKEN or `hf auth login`, HF_ENDPOINT). Raises StoreError if the
    hub refuses or does not answer."""
    api = HfApi()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_repository(bundle, repository, Path(scratch) / "repository")
            api.create_repo(repository, private=not public, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Bundle {bundle.id}")
    except (HfHubHTTPError, httpx.HTTPError, OSError) as exc:
        raise StoreError(
            f"{api.endpoint} did not take {repository}: {exc}; log in with `hf auth login` or set HF_TOKEN to a token "
            "that may write there, or write the same to a folder with --to FOLDER"
        ) from exc
    return str(done.commit_url)


def card(bundle: Bundle, repository: str) -> str:
    """Write the model card: what the release is made of, how it was measured, and how to load it."""
    manifest, base, name = bundle.manifest, _base(bundle), repository.rpartition("/")[2]
    facts = ModelCardData(
        base_model=base if _HUB_ID.fullmatch(base) and not Path(base).exists() else None,
        library_name="peft" if bundle.adapter else None,
        pipeline_tag="text-generation",
        tags=["fast-slow-training", *(["lora"] if bundle.adapter else [])],
        model_name=name,
        eval_results=[
            EvalResult("text-generation", facts["spec"], domain, "reward", bundle.evaluation()[domain]["reward"])
            for domain, facts in manifest["domains"].items()
            if domain in bundle.evaluation()
        ],
    )
    parts = [
        f"---\n{facts.to_yaml()}\n---",
        f"# {name}",
        f"A release of Fast-Slow Training: {'a LoRA adapter and ' if bundle.adapter else ''}prompts for "
        f"{', '.join(manifest['domains']) or 'no domain'} on `{base}`, which learned from one verifiable reward. "
        "Weights and prompts were trained together: ask it under the prompt of the domain.",
        "## Measured",
        "\n".join(_figures(bundle)),
        "## Prompts",
        "\n\n".join(_prompts(bundle)),
        "## Use",
        _use(bundle, repository, name, base),
        f"Bundle `{bundle.id}`, made with {', '.join(f'{k} {v}' for k, v in manifest['versions'].items())}.",
    ]
    return "\n\n".join(parts) + "\n"


def _base(bundle: Bundle) -> str:
    """The name by which the base model is loaded with the adapter."""
    named = bundle.manifest["base"]["name"]
    if bundle.adapter:
        named = _config(bundle)["base_model_name_or_path"] or named
    return "models/lab_base" if named == "lab" else str(named)


def _config(bundle: Bundle) -> dict[str, Any]:
    return dict(bundle.document(ADAPTER[0]))


def _figures(bundle: Bundle) -> list[str]:
    rows = [
        f"| {domain} | `{bundle.manifest['domains'][domain]['spec']}` "
        f"| {found['reward']:.3f} ± {found['stderr']:.3f} | {found['kl']:.3f} | {found['tokens_per_answer']:.1f} |"
        for domain, found in bundle.evaluation().items()
    ]
    head = "| domain | problems | reward on held-out ones, mean@n | KL from the base, nats a token | tokens an answer |"
    return [head, "|---|---|---|---|---|", *rows]


def _prompts(bundle: Bundle) -> list[str]:
    """Format each domain's best prompt, in a fence of more backticks than the prompt contains."""
    found = []
    for domain, served in bundle.prompts().items():
        text = served["prompts"][0]["text"]
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        found.append(
            f"**{domain}**, the best of {len(served['prompts'])} (all are in prompts.json)\n\n{fence}\n{text}\n{fence}"
        )
    return found


def _use(bundle: Bundle, repository: str, name: str, base: str) -> str:
    if bundle.adapter is None:
        return f"The weights are those of `{base}`: load it as it is, and ask it under a prompt above."
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({json.dumps(base)}), {json.dumps(repository)})
```

```
vllm serve {base} --enable-lora --max-lora-rank {_config(bundle)["r"]} --lora-modules {name}={repository}
```"""
